"""What a strategy was asked for is kept in its file, and what contradicts itself is not."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.record_files import read_strategy, write_strategy
from llmpq_jax.schema.solve_request import QualityLimits, SolveRequest, Sources
from llmpq_jax.schema.toml import decode_record
from tests.support.devices import ReadPipe
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def strategy(tmp_path_factory):
    folder = write_tiny_model(tmp_path_factory.mktemp("request") / "model")
    return make_strategy(folder, [((0,), [8] * 4)])


def test_paths_on_standard_output_are_relative_to_the_working_folder(
    strategy, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipes").mkdir()
    pipe = ReadPipe(tmp_path / "pipes" / "out")
    where = replace(strategy.model, path="models/small")
    write_strategy(Path("pipes/out"), replace(strategy, model=where))
    assert tomllib.loads(pipe.content().decode())["model"]["path"] == "models/small"


def test_paths_are_relative_to_the_record_files(strategy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = SolveRequest(
        sources=Sources(
            cluster="here/cluster.toml",
            measurements="/away/measurements.toml",
            sensitivity="sensitivity.toml",
        ),
        quality=QualityLimits(max_kl=0.1, validation_text="texts/other.txt"),
    )
    (tmp_path / "here").mkdir()
    write_strategy(tmp_path / "here/plan.toml", replace(strategy, request=asked))
    text = (tmp_path / "here/plan.toml").read_text()
    for line in (
        'cluster = "cluster.toml"',
        'measurements = "/away/measurements.toml"',
        'sensitivity = "../sensitivity.toml"',
        'validation_text = "../texts/other.txt"',
    ):
        assert f"\n{line}\n" in text
    monkeypatch.chdir(tmp_path / "here")
    found = read_strategy(tmp_path / "here/plan.toml").request
    assert found is not None
    assert found.sources.cluster == str(tmp_path / "here/cluster.toml")
    assert found.sources.sensitivity == str(tmp_path / "sensitivity.toml")


FILES = {"cluster": "c.toml", "measurements": "m.toml"}


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"sources": FILES | {"roofline": True}}, "either --measurements FILE, "),
        ({"sources": {"cluster": "c.toml"}}, "either --measurements FILE, "),
        (
            {"quality": {"omega_budget": 1.0, "max_kl": 1.0, "validation_text": "t"}},
            "found --omega-budget and --max-kl",
        ),
        (
            {"quality": {"max_kl": 1.0}},
            "expected --validation-text with --max-ppl-incr",
        ),
        ({"quality": {"validation_text": "t"}}, "expected --validation-text with"),
        (
            {"choices": {"use": ["a/b"], "leave_idle": ["a/b"]}},
            "--use a/b and --leave-idle a/b: expected one or the other",
        ),
        (
            {
                "quality": {"max_kl": 1.0, "validation_text": "t"},
                "choices": {"wire_bits": [16, 8]},
            },
            "--wire-bits 16 or 8 with --validation-text, which measures weights and",
        ),
        ({"choices": {"bits": [3]}}, r"choices.bits\[0\]: found 3"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(sections, complaint):
    with pytest.raises(StrategyError, match=complaint):
        decode_record(
            SolveRequest,
            {"sources": FILES} | sections,
            where="strategy.toml: request",
            error=StrategyError,
        )
