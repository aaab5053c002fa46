from __future__ import annotations

import csv
import importlib
from dataclasses import replace

import pytest

from tests.cli.conftest import SIZES


@pytest.fixture
def words(model, cluster, measurements, tmp_path):
    return [
        *("--model", model, "--cluster", cluster, "--measurements", measurements),
        *(*SIZES, "--gap", 0.01, "--points", 4, "--out", tmp_path / "front.csv"),
    ]


@pytest.mark.parametrize("axis", ["quality", "batch", "devices"])
def test_points_are_written_with_their_gaps_and_drawn(run, words, tmp_path, axis):
    result = run("sweep", "--over", axis, *words)
    assert result.exit_code == 0, result.output
    with (tmp_path / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert row["sweep"] == axis
        assert float(row["latency_s"]) > 0
        assert 0 <= float(row["gap"]) < 1
        assert float(row["bound"]) <= float(row["latency_s"]) * (1 + 1e-9)
        assert len(row["bits"].split()) == 4
    settings = [float(row["setting"]) for row in rows]
    assert settings == sorted(settings)
    num_front = sum(row["on_front"] == "yes" for row in rows)
    assert f"{num_front} of {len(rows)} points are on the front" in result.stdout
    picture = (tmp_path / "front.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_ctrl_c_keeps_what_was_found(run, words, tmp_path, monkeypatch):
    from llmpq_jax.planner.whatif.pareto import Sweep

    own_batch = Sweep.batch

    def interrupted(self):
        yield next(own_batch(self))
        raise KeyboardInterrupt

    monkeypatch.setattr(Sweep, "batch", interrupted)
    result = run("sweep", "--over", "batch", *words)
    assert result.exit_code == 0, result.output
    assert "interrupted: the points so far are kept" in result.stderr
    assert "1 of 1 points are on the front" in result.stdout
    assert (tmp_path / "front.csv").exists()
    assert (tmp_path / "front.png").exists()


def test_a_name_that_is_no_csv_is_refused(run, words, tmp_path):
    result = run("sweep", "--over", "batch", *words, "--out", tmp_path / "front.png")
    assert result.exit_code == 2
    assert "expected a name that ends in .csv" in " ".join(result.stderr.split())


def test_a_sweep_of_quality_sets_its_own_budgets(run, words):
    result = run("sweep", "--over", "quality", *words, "--omega-budget", 1)
    assert result.exit_code == 2
    assert "expected no --omega-budget" in result.stderr


def test_where_nothing_fits_no_file_is_drawn(run, words, tmp_path):
    small = tmp_path / "small.toml"
    small.write_text(
        'schema = 1\nname = "small"\n[[node]]\nname = "node0"\n[[node.device]]\n'
        'name = "cpu:0"\nkind = "cpu"\nplatform = "cpu"\nmemory = "100 KiB"\n'
    )
    result = run("sweep", "--over", "batch", *words, "--cluster", small)
    assert result.exit_code == 1
    assert "error: no point has a plan: `llmpq-jax solve` says" in result.stderr
    assert not (tmp_path / "front.png").exists()


def test_choices_are_those_of_solve(run, words, tmp_path):
    result = run(
        *("sweep", "--over", "devices", *words, "--head-bits", 8, "--bits", "16,8"),
        *("--pin-layers", "0:2=node0/cpu:1", "--decode-micro-batch", 1),
    )
    assert result.exit_code == 0, result.output
    with (tmp_path / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert row["head_bits"] == "8"
        assert row["decode_micro_batch"] == "1"
        assert row["devices"].split()[0] == "node0/cpu:1"
        assert min(map(int, row["bits"].split())) >= 8


def test_choices_that_do_not_go_together_are_refused(run, words):
    result = run("sweep", "--over", "batch", *words, "--pin-layers", "0:2=node9/cpu:1")
    assert result.exit_code == 2
    assert "expected one of node0/cpu:0, node0/cpu:1" in " ".join(result.stderr.split())


def test_no_plan_in_time_is_not_no_plan(fails, words, monkeypatch):
    module = importlib.import_module("llmpq_jax.planner.whatif.pareto")
    own = module.search

    def hurried(*args, **options):
        return replace(own(*args, **options), incumbent=None, is_complete=False)

    monkeypatch.setattr(module, "search", hurried)
    assert fails("sweep", "--over", "batch", *words).startswith(
        "no plan was found in the 30 s of each point, and it is not proven that there is"
    )
