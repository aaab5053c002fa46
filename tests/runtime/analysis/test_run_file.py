"""A run record is read as it was written; other files are refused in one line."""

from __future__ import annotations

import json
import tomllib

import pytest

from llmpq_jax.errors import SpecError
from llmpq_jax.runtime.analysis.phase_times import phase_times
from llmpq_jax.runtime.analysis.run_file import read_run
from llmpq_jax.runtime.analysis.run_record import write_run_record
from llmpq_jax.schema.toml import to_toml
from tests.report import samples


@pytest.fixture
def path(tmp_path):
    plan, batches = samples.strategy(), [samples.batch(), samples.batch(num_steps=3)]
    typed = tomllib.loads(to_toml(plan))
    header = {"command": "typed", "date": "today", "strategy": typed}
    phases = [phase_times(plan, batch) for batch in batches]
    write_run_record(tmp_path / "run.jsonl", batches, header, phases)
    return tmp_path / "run.jsonl"


def test_a_record_is_read_as_it_was_written(path):
    run = read_run(path)
    assert run.strategy == samples.strategy()
    assert run.batches == (samples.batch(), samples.batch(num_steps=3))
    assert (run.command, run.date) == ("typed", "today")


def refused(path):
    with pytest.raises(SpecError) as caught:
        read_run(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert "expected" in message
    return message


def test_files_that_are_no_record_are_refused(path, tmp_path):
    assert "cannot be read" in refused(tmp_path / "none.jsonl")
    assert "cannot be read" in refused(tmp_path)
    lines = path.read_text().splitlines()

    def written(*changed):
        path.write_text("\n".join(changed) + "\n")
        return refused(path)

    assert "line 2" in written(lines[0], "no JSON")
    assert "line 1" in written("[1, 2]", *lines[1:])
    assert "line 1" in written('{"record": "else"}', *lines[1:])
    assert "lacks a batch" in written(lines[0])
    bare = {k: v for k, v in json.loads(lines[0]).items() if k != "strategy"}
    assert "lacks its strategy" in written(json.dumps(bare), *lines[1:])
    batch = json.loads(lines[1])
    short = {k: v for k, v in batch.items() if k != "prefill_s"}
    assert "prefill_s" in written(lines[0], json.dumps(short))
    few = {**batch, "stages": batch["stages"][:1]}
    assert "a batch of 1 stages" in written(lines[0], json.dumps(few))
    event = json.loads(lines[-1])
    assert "an event of another" in written(
        *lines[:2], json.dumps({**event, "batch": 0, "stage": 7})
    )
