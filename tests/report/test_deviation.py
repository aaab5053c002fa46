from __future__ import annotations

from dataclasses import replace

from llmpq_jax.report.console import print_table
from llmpq_jax.report.deviation import deviation_line, deviation_table
from llmpq_jax.runtime.analysis.phase_times import phase_times
from tests.report import samples


def phases():
    return phase_times(samples.strategy(), samples.batch())


def test_each_stage_has_a_row_for_each_phase(capsys):
    print_table(deviation_table(samples.strategy(), [phases()]))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = [row for row in rows if row[:2] == ["node0/cpu:1", "decode"]]
    assert row[2:7] == ["500", "µs", "500", "µs", "1.00×"]
    unknown = [replace(row, predicted_s=None) for row in phases()]
    print_table(deviation_table(samples.strategy(), [unknown]))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = [row for row in rows if row[:2] == ["node0/cpu:1", "decode"]]
    assert row[2:6] == ["–", "500", "µs", "–"]


def test_the_largest_deviation_may_be_too_slow_or_too_fast():
    rows = list(phases())
    rows[2] = replace(rows[2], measured_s=3 * rows[2].measured_s)
    line = deviation_line(samples.strategy(), [rows])
    assert line == (
        "deviation    largest in prefill on node0/cpu:1: 6 ms instead of 2 ms for a "
        "micro-batch (3.00×), predicted for the planned sizes"
    )
    rows[1] = replace(rows[1], measured_s=rows[1].measured_s / 5)
    line = deviation_line(samples.strategy(), [rows])
    assert line is not None
    assert "decode on node0/cpu:0" in line
    assert "(0.20×)" in line


def test_without_predictions_there_is_no_deviation():
    rows = [replace(row, predicted_s=None) for row in phases()]
    assert deviation_line(samples.strategy(), [rows]) is None
