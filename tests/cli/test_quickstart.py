from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from llmpq_jax.profiler.grid import Grid
from llmpq_jax.schema.record_files import read_strategy
from llmpq_jax.tasks import quickstart
from tests.planner.requests import measurements

# A third of the sizes that a user waits for.
SMALL_GRID = Grid.of((1, 16), ((64, 128),))


@pytest.mark.slow
def test_the_whole_way_works_and_works_again(run, model, tmp_path, monkeypatch):
    small = replace(quickstart.PROFILE, grid=SMALL_GRID)
    monkeypatch.setattr(quickstart, "PROFILE", small)
    measure = quickstart.measure

    def measure_once(*arguments, overwrites, **choices):
        """Continues where the first run ended, so that the second need not wait."""
        assert overwrites
        return measure(*arguments, **choices)

    monkeypatch.setattr(quickstart, "measure", measure_once)
    work_dir = tmp_path / "with space"
    words = ("quickstart", "--model", model, "--work-dir", work_dir)
    for result in (run(*words), run(*words)):
        assert result.exit_code == 0, result.output
    # The model's text is above, and may look like anything.
    end = result.stdout.rpartition("\nmeasured ")[2]
    files = {
        match[1]: match[2]
        for match in re.finditer(r"^([a-z ]+?) +(/.*)$", end, re.MULTILINE)
    }
    assert set(files) == {
        *("cluster", "measurements", "strategy", "results"),
        *("run record", "trace", "timeline"),
    }
    plan = read_strategy(work_dir / "strategy.toml")
    assert len(plan.stages) == 4
    lines = (work_dir / "results.jsonl").read_text().splitlines()
    assert len(lines) == 16
    assert all(json.loads(line)["num_new_tokens"] == 64 for line in lines)
    assert "The run: predicted → measured" in result.stdout
    assert "1,024 new tokens of 16 prompts in" in end
    for path in files.values():
        assert path.startswith(str(work_dir))


def test_a_wheel_alone_says_how_to_get_the_example(fails, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "CHECKOUT", tmp_path / "site-packages")
    line = fails("quickstart", "--work-dir", tmp_path / "out")
    assert "clone the repository and run `make quickstart`" in line
    assert "--model" in line
    assert not (tmp_path / "out").exists()


def test_what_the_solver_says_is_said(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "measure", lambda *_, **__: measurements())
    result = run("quickstart", "--model", model, "--work-dir", tmp_path)
    assert result.exit_code == 1
    path = tmp_path / "measurements.toml"
    assert result.stderr.splitlines()[-1].startswith(
        f"error: solving failed: measurements {path}: cannot be read"
    )
