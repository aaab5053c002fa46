from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.report.console import print_table
from llmpq_jax.report.tables import (
    accuracy_table,
    machine_table,
    measurements_table,
    neighbours_table,
    plan_table,
    run_table,
)
from llmpq_jax.schema.cluster import Link
from llmpq_jax.schema.measurements import Accuracy
from tests.planner.requests import measurements
from tests.profiler.fakes import cluster, device
from tests.report import samples


def _shown(capsys: pytest.CaptureFixture[str], table) -> list[list[str]]:
    print_table(table)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_the_plan_has_a_row_for_each_stage(capsys):
    rows = _shown(capsys, plan_table(samples.strategy()))
    assert [
        "node0/cpu:0",
        "0–4",
        "16",
        "8×3",
        "4",
        "7",
        "MiB",
        "of",
        "8",
        "MiB",
        "4",
        "ms",
        "1",
        "ms",
    ] in rows
    assert [
        "node0/cpu:1",
        "5",
        "8",
        "3",
        "MiB",
        "of",
        "8",
        "MiB",
        "2",
        "ms",
        "500",
        "µs",
    ] in rows
    mesh = "node0/cpu:2 + node0/cpu:3 6–7 4×2 2 MiB of 8 MiB 3 ms 700 µs"
    assert mesh.split() in rows


def test_a_plan_by_hand_has_nothing_predicted(capsys):
    plan = samples.strategy()
    stages = tuple(replace(stage, predicted=None) for stage in plan.stages)
    plan = replace(plan, stages=stages, predicted=None)
    rows = _shown(capsys, plan_table(plan))
    assert ["node0/cpu:1", "5", "8", "–", "–", "–"] in rows
    rows = _shown(capsys, run_table(plan, [samples.batch()]))
    assert any("– → 2 ms – → 500 µs" in " ".join(row) for row in rows)


def test_the_run_is_compared_with_the_plan(capsys):
    rows = [
        " ".join(row)
        for row in _shown(capsys, run_table(samples.strategy(), [samples.batch()]))
    ]
    (row,) = [row for row in rows if row.startswith("node0/cpu:0")]
    assert "6 MiB of 8 MiB" in row
    assert "4 ms → 4 ms 1 ms → 1 ms" in row
    batch = samples.batch()
    busy = batch.stages[0].busy_s / batch.latency_s
    assert row.endswith(f"{busy:.0%}")


def test_a_run_without_decode_says_so(capsys):
    batch = samples.batch(num_steps=0)
    rows = _shown(capsys, run_table(samples.strategy(), [batch]))
    assert any("1 ms → –" in " ".join(row) for row in rows)


def test_measurements_have_a_row_for_each_kind_phase_and_bits(capsys):
    rows = _shown(capsys, measurements_table(measurements()))
    found = {tuple(row[:3]) for row in rows if row and row[0] in {"fast", "slow"}}
    assert found == {
        (kind, phase, bits)
        for kind in ("fast", "slow")
        for phase in ("prefill", "decode")
        for bits in ("16", "8", "4")
    }
    assert "± 1.0%" in " ".join(" ".join(row) for row in rows)


def test_a_file_gets_lines_without_trailing_blanks_or_colour(capsys):
    print_table(plan_table(samples.strategy()))
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_last_accuracy_of_each_layer_is_shown(capsys):
    first = Accuracy(
        kind="fast",
        phase="decode",
        bits=8,
        num_fitted=10,
        num_held_out=2,
        mean_error=0.5,
        largest_error=0.75,
        spread=0.25,
    )
    last = replace(first, num_fitted=20, mean_error=0.034, largest_error=0.1)
    other = replace(first, phase="prefill")
    known = replace(measurements(), accuracy=(first, last, other))
    rows = _shown(capsys, accuracy_table(known))
    expected = [
        "fast",
        "decode",
        "8",
        "16",
        "1",
        "20",
        "2",
        "3.4%",
        "10.0%",
        "±",
        "25.0%",
    ]
    assert expected in rows
    assert len([row for row in rows if row[:1] == ["fast"]]) == 2


def test_devices_cores_and_links_are_told(capsys):
    described = cluster(device("cpu:0", "big"), device("cpu:1", "small"))
    (node,) = described.nodes
    link = Link(
        between=("node0", "node0"), bandwidth_bytes_per_s=2.0**30, latency_s=5e-5
    )
    described = replace(described, nodes=(replace(node, cores=6),), links=(link,))
    print_table(machine_table(described))
    out = capsys.readouterr().out
    assert "node0/cpu:1" in out
    assert "small" in out
    assert "node0: 6 cores" in out
    assert "node0: 1 GiB/s after 50 µs" in out


@pytest.mark.parametrize(
    "kind", ["[/x]", "[bold]", ":smile:", "a\x1b[31mb", "[link=x]"]
)
def test_names_are_shown_as_they_are_and_control_nothing(capsys, kind):
    (node,) = cluster(device("cuda:0", kind=kind)).nodes
    (row,) = [
        row
        for row in _shown(capsys, machine_table(cluster(*node.devices)))
        if "node0/cuda:0" in row
    ]
    assert kind.replace("\x1b", "\\x1b") in row


def test_plans_around_are_shown_with_this_one_marked(capsys):
    plan = samples.strategy()
    rows = _shown(capsys, neighbours_table([plan, replace(plan)], plan))
    assert sum("this" in row for row in rows) == 1
    assert any("tokens/s" in row for row in rows)
