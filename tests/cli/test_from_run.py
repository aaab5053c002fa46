"""A run that calibrates measurements: the next plan predicts what happened."""

from __future__ import annotations

import json
import shutil

import pytest

from llmpq_jax.schema.measurements_file import read_measurements

# Of eight tokens each, as planned.
PROMPTS = [f"def f{number}()" for number in range(1, 9)]


@pytest.fixture
def solved(run, model, cluster, measurements, tmp_path):
    """A plan whose micro-batches are many, and measurements to be corrected."""
    table = shutil.copy(measurements, tmp_path / "measurements.toml")

    def solve(name):
        path = tmp_path / name
        result = run(
            *("solve", "--model", model, "--cluster", cluster, "--out", path),
            *("--measurements", table, "--batch", 8, "--prompt-length", 8),
            *("--new-tokens", 8, "--prefill-micro-batch", 1),
            *("--decode-micro-batch", 1),
        )
        assert result.exit_code == 0, result.output
        return path, result

    return table, solve


def predicted(run, plan, table):
    """Seconds of the plan's stages by the planner, by phase."""
    words = ("--measurements", table, "--without-solving", "--json")
    values = json.loads(run("explain", "--strategy", plan, *words).stdout)
    return {
        phase: sum(stage[f"{phase}_s"] for stage in values["stages"])
        for phase in ("prefill", "decode")
    }


def test_a_run_that_calibrates_is_predicted(
    run, fails, model, cluster, solved, tmp_path
):
    table, solve = solved
    plan, _ = solve("plan.toml")
    record = tmp_path / "run.jsonl"
    prompts = [word for text in PROMPTS for word in ("--prompt", text)]
    done = run(
        *("generate", "--strategy", plan, "--ignore-eos", *prompts),
        *("--record", record),
    )
    assert done.exit_code == 0, done.output
    before = predicted(run, plan, table)
    words = ("profile", "--model", model, "--cluster", cluster, "--out", table)
    result = run(*words, "--from-run", record)
    assert result.exit_code == 0, result.output
    assert "Runs used for calibration: one row per run, kind and phase" in result.stdout
    rows = {row.phase: row for row in read_measurements(table).observed}
    after = predicted(run, plan, table)
    for phase, num_passes in (("prefill", 8), ("decode", 8 * 7)):
        row = rows[phase]
        assert row.run == "run.jsonl"
        # What is planned is what was run, so the table predicts what it says of the plan.
        assert num_passes * before[phase] == pytest.approx(row.predicted_s, rel=1e-4)
        assert num_passes * after[phase] == pytest.approx(row.measured_s, rel=1e-4)
    again = run(*words, "--from-run", record)
    assert again.exit_code == 0, again.output
    assert "it was calibrated by" in again.stdout
    _, second = solve("second.toml")
    assert "cpu: seconds are multiplied by" in second.stderr
    assert "calibrated from 1 run" in second.stderr


def test_calibrating_takes_no_option_of_measuring(run, model, cluster, tmp_path):
    result = run(
        *("profile", "--model", model, "--cluster", cluster, "--out", tmp_path / "m"),
        *("--from-run", tmp_path / "run.jsonl", "--quick", "--batch", 4),
    )
    assert result.exit_code == 2
    line = " ".join(result.stderr.split())
    assert "--from-run measures no layers: expected --model, --cluster, --out" in line
    assert "no --batch, --quick" in line


def test_what_is_no_record_is_named(fails, model, cluster, measurements, tmp_path):
    assert "run record" in fails(
        *("profile", "--model", model, "--cluster", cluster, "--out", measurements),
        *("--from-run", tmp_path / "none.jsonl"),
    )
