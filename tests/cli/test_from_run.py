"""A run folded back: the next plan starts from what happened."""

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


def told(run, plan, table):
    """Seconds of the plan's stages by the planner, by phase."""
    words = ("--measurements", table, "--without-solving", "--json")
    values = json.loads(run("explain", "--strategy", plan, *words).stdout)
    return {
        phase: sum(stage[f"{phase}_s"] for stage in values["stages"])
        for phase in ("prefill", "decode")
    }


def test_a_run_folded_in_is_foretold(run, fails, model, cluster, solved, tmp_path):
    table, solve = solved
    plan, _ = solve("plan.toml")
    record = tmp_path / "run.jsonl"
    prompts = [word for text in PROMPTS for word in ("--prompt", text)]
    done = run(
        *("generate", "--strategy", plan, "--ignore-eos", *prompts),
        *("--record", record),
    )
    assert done.exit_code == 0, done.output
    before = told(run, plan, table)
    fold = ("profile", "--model", model, "--cluster", cluster, "--out", table)
    result = run(*fold, "--from-run", record)
    assert result.exit_code == 0, result.output
    assert "Runs folded in: one row per run, kind and phase" in result.stdout
    rows = {row.phase: row for row in read_measurements(table).observed}
    after = told(run, plan, table)
    for phase, num_passes in (("prefill", 8), ("decode", 8 * 7)):
        row = rows[phase]
        assert row.run == "run.jsonl"
        # What is planned is what was run, so the table foretold what it says of the plan.
        assert num_passes * before[phase] == pytest.approx(row.predicted_s, rel=1e-4)
        assert num_passes * after[phase] == pytest.approx(row.measured_s, rel=1e-4)
    again = run(*fold, "--from-run", record)
    assert again.exit_code == 0, again.output
    assert "was folded in before" in again.stdout
    _, second = solve("second.toml")
    assert "cpu: seconds are multiplied by" in second.stderr
    assert "as a run folded into the measurements told" in second.stderr


def test_folding_takes_no_option_of_measuring(run, model, cluster, tmp_path):
    result = run(
        *("profile", "--model", model, "--cluster", cluster, "--out", tmp_path / "m"),
        *("--from-run", tmp_path / "run.jsonl", "--quick", "--batch", 4),
    )
    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "--from-run measures no layers: expected --model, --cluster, --out" in told
    assert "no --batch, --quick" in told


def test_what_is_no_record_is_named(fails, model, cluster, measurements, tmp_path):
    assert "run record" in fails(
        *("profile", "--model", model, "--cluster", cluster, "--out", measurements),
        *("--from-run", tmp_path / "none.jsonl"),
    )
