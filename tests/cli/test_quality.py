"""`indicate`, `solve` under a measured limit and `evaluate`, as typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from llmpq_jax.cli import main
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.record_files import (
    read_sensitivity,
    read_strategy,
    write_strategy,
)
from tests.cli.conftest import SIZES
from tests.sensitivity.small import write_text_file
from tests.support.devices import room_for
from tests.support.ray_machines import on_nodes

_ESTIMATE = ("--window", 16, "--assignments", 3)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("texts")
    return [write_text_file(folder, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def sensitivity(model, texts) -> Path:
    path = texts[0].with_name("sensitivity.toml")
    words = ("indicate", "--model", model, "--text", texts[0], "--out", path)
    words += (*_ESTIMATE, "--rounding", "gptq")
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "Quality loss of each layer, by hessian" in result.stdout
    return path


def _solve(run, model, cluster, measurements, sensitivity, out, *words):
    return run(
        *("solve", "--model", model, "--cluster", cluster, *SIZES, "--out", out),
        *("--measurements", measurements, "--sensitivity", sensitivity, *words),
    )


def test_a_promise_is_planned_measured_and_served(
    run, model, cluster, measurements, sensitivity, texts, tmp_path
):
    found = read_sensitivity(sensitivity)
    assert found.rounding == "gptq"
    out, record = tmp_path / "strategy.toml", tmp_path / "validation.jsonl"
    words = ("--max-ppl-increase", 50.0, "--validation-text", texts[1], "--window", 16)
    words += ("--validation-record", record)
    result = _solve(run, model, cluster, measurements, sensitivity, out, *words)
    assert result.exit_code == 0, result.output
    assert "round: budget Σω" in result.stderr
    assert "validation   perplexity" in result.stdout
    strategy = read_strategy(out)
    assert strategy.precision.rounding == "gptq"
    assert strategy.quality is not None
    assert strategy.quality.validation_text == texts[1].name
    assert strategy.quality.measured_ppl_increase is not None
    assert strategy.quality.measured_ppl_increase <= 50.0
    assert len(record.read_text().splitlines()) == 1
    assert not list(tmp_path.glob(".*.work"))
    evaluated = run(
        "evaluate", "--strategy", out, "--text", texts[2], "--window", 16, "--json"
    )
    assert evaluated.exit_code == 0, evaluated.output
    found = json.loads(evaluated.stdout)["text"]
    with Pipeline.load(strategy) as pipeline:
        tokens = np.array(pipeline.tokenizer.encode(texts[2].read_text()))
        rows = tokens[: len(tokens) // 16 * 16].reshape(-1, 16)
        logits = pipeline.score(rows).astype(np.float64)
    logits -= np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    nll = -np.take_along_axis(logits[:, :-1], rows[:, 1:, None], axis=-1)
    assert found["found"]["perplexity"] == pytest.approx(np.exp(nll.mean()), rel=1e-4)
    assert found["num_tokens"] == nll.size


def test_a_disk_that_fills_during_validation_does_not_cost_the_plan(
    run, model, cluster, measurements, sensitivity, texts, tmp_path
):
    out, record = tmp_path / "strategy.toml", tmp_path / "validation.jsonl"
    other = json.dumps({"key": "of another problem", "padding": "x" * 4_000_000})
    record.write_text(other + "\n")
    words = ("--max-ppl-increase", 50.0, "--validation-text", texts[1], "--window", 16)
    with room_for(4_000_000):
        result = _solve(
            run,
            *(model, cluster, measurements, sensitivity, out, *words),
            *("--validation-record", record),
        )
    assert result.exit_code == 0, result.output
    assert f"output {record}: cannot be written (File too large)" in result.stderr
    assert "what was evaluated is not kept" in result.stderr
    assert read_strategy(out).quality is not None
    assert record.read_text() == other + "\n"


def test_rounded_weights_do_not_go_to_the_model_s_folder_by_default(
    run, model, texts, tmp_path
):
    named_like_it = shutil.copytree(model, tmp_path / "tiny-gptq")
    result = run(
        *("indicate", "--model", named_like_it, "--text", texts[0]),
        *("--out", tmp_path / "tiny.toml", "--rounding", "gptq"),
    )
    assert result.exit_code == 2
    assert f"{named_like_it} by default, which is the folder of" in result.stderr


def test_questions_are_answered_as_at_16_bits(run, strategy, tmp_path):
    path = tmp_path / "questions.jsonl"
    row = {"question": "ab", "choices": ["c", "dd"], "answer": 0}
    path.write_text(json.dumps(row) + "\n")
    result = run("evaluate", "--strategy", strategy, "--questions", path)
    assert result.exit_code == 0, result.output
    assert "1 question of questions.jsonl" in result.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_plan_over_two_machines_is_evaluated_as_on_one(
    run, strategy, texts, machines, tmp_path
):
    apart = tmp_path / "apart.toml"
    write_strategy(apart, on_nodes(read_strategy(strategy), "node0", "node1"))
    words = ("--text", texts[2], "--window", 16, "--json")
    here = run("evaluate", "--strategy", strategy, *words)
    of_ray = ("--engine", "ray", "--address", machines.address)
    there = run("evaluate", "--strategy", apart, *words, *of_ray)
    assert there.exit_code == 0, there.output
    assert json.loads(there.stdout) == json.loads(here.stdout)


def test_the_validation_text_may_not_be_the_text_of_the_sensitivities(
    run, model, cluster, measurements, sensitivity, texts, tmp_path
):
    out = tmp_path / "strategy.toml"
    words = ("--max-kl", 1.0, "--validation-text", texts[0], "--window", 16)
    result = _solve(run, model, cluster, measurements, sensitivity, out, *words)
    assert result.exit_code == 1
    assert (
        "is the text the sensitivities were found on: expected another" in result.stderr
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ("--max-kl", 1.0),
            "expected --validation-text with --max-ppl-increase or --max-kl",
        ),
        (
            ("--validation-text", "x.txt"),
            "expected --validation-text with --max-ppl-increase or --max-kl",
        ),
        (
            ("--max-kl", 1.0, "--omega-budget", 1.0, "--validation-text", "x.txt"),
            "found --omega-budget and --max-kl",
        ),
    ],
)
def test_limits_that_contradict_each_other_are_wrong_use(
    run, model, cluster, measurements, tmp_path, words, complaint
):
    out = tmp_path / "strategy.toml"
    result = run(
        *("solve", "--model", model, "--cluster", cluster, *SIZES, "--out", out),
        *("--measurements", measurements, *words),
    )
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_evaluate_needs_a_text_or_questions(run, strategy):
    result = run("evaluate", "--strategy", strategy)
    assert result.exit_code == 2
    assert "expected --text, --questions, or both" in result.stderr


def test_windows_beyond_the_model_or_the_plan_are_refused(
    fails, model, strategy, texts, tmp_path
):
    out = tmp_path / "sensitivity.toml"
    line = fails(
        *("indicate", "--model", model, "--text", texts[0]),
        *("--out", out, "--window", 512),
    )
    assert line.startswith("--window is 512: expected at most 256, the positions that")
    line = fails("evaluate", "--strategy", strategy, "--text", texts[0], "--window", 64)
    assert line.startswith("--window is 64: expected at most 32, the context that the")


def test_sensitivities_that_were_not_measured_promise_nothing(
    fails, model, cluster, measurements, texts, tmp_path
):
    line = fails(
        *("solve", "--model", model, "--cluster", cluster, *SIZES),
        *("--out", tmp_path / "s.toml", "--measurements", measurements),
        *("--max-kl", 1.0, "--validation-text", texts[1], "--window", 16),
    )
    assert "by 'weight-variance' were not fitted to measured losses" in line
