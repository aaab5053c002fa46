from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "strategies"
WORDS = (
    *("compare", "--model", FOLDER / "models" / "opt-13b", "--gap", "0.01"),
    *("--cluster", FOLDER / "paper-02" / "cluster.toml"),
    *("--batch", "8", "--prompt-length", "64", "--new-tokens", "16"),
)


def test_baselines_are_listed_with_their_ratios(run):
    result = run(*WORDS, "--roofline")
    assert result.exit_code == 0, result.output
    assert "PipeEdge, micro-batches searched" in result.stdout
    assert "×" in result.stdout
    assert "predicted from data-sheet figures; nothing was run" in result.stdout
    assert "comparing with transfer" in result.stderr


def test_a_program_may_read_the_comparison(run):
    result = run(*WORDS, "--roofline", "--json")
    rows = json.loads(result.stdout)
    assert len(rows) == 6
    assert all(row["ratio"] >= 1.0 for row in rows)


def test_seconds_come_from_one_place(run):
    result = run(*WORDS)
    assert result.exit_code == 2
    assert (
        "give either --measurements FILE, which `llmpq-jax profile` writes, or --roofline"
        in result.stderr
    )


def test_a_measured_model_is_compared_too(run, model, cluster, measurements):
    result = run(
        *("compare", "--model", model, "--cluster", cluster),
        *("--measurements", measurements),
        *("--batch", "2", "--prompt-length", "8", "--new-tokens", "8"),
    )
    assert result.exit_code == 0, result.output
    assert "seconds are predicted; nothing was run" in result.stdout
