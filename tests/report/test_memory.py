from __future__ import annotations

from dataclasses import replace

from llmpq_jax.report.console import print_table
from llmpq_jax.report.memory import peaks_line, peaks_table, stage_peaks
from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.strategy import Strategy
from tests.report import samples
from tests.report.samples import MIB

TERMS = MemoryTerms(
    weights=3 * MIB,
    kv_cache=MIB,
    embedding=MIB,
    head=0,
    workspace=MIB,
    buffers=MIB,
)


def with_terms() -> Strategy:
    plan = samples.strategy()
    first, *others = plan.stages
    assert first.predicted is not None
    predicted = replace(first.predicted, memory=TERMS)
    return replace(plan, stages=(replace(first, predicted=predicted), *others))


def shown(capsys, strategy, batches):
    print_table(peaks_table(strategy, batches))
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line for line in lines if line.strip().startswith("node0")}


def test_a_stage_has_its_parts_predicted_and_at_their_peaks(capsys):
    assert TERMS.total == 7 * MIB
    rows = shown(capsys, with_terms(), [samples.batch()])
    first = rows["node0/cpu:0"]
    assert "4 MiB → 5 MiB" in first
    assert "1 MiB → 1 MiB" in first
    assert "2 MiB → 1 MiB" in first
    assert "7 MiB → 7 MiB" in first
    assert "1.00×" in first
    assert first.split()[-1] == "1.00×"


def test_what_was_not_measured_or_predicted_is_not_made_up(capsys):
    rows = shown(capsys, samples.strategy(), [samples.batch()])
    assert "– → 5 MiB" in rows["node0/cpu:0"]
    assert "3 MiB → –" in rows["node0/cpu:1"]
    assert rows["node0/cpu:2"].split()[-1] == "2.00×"


def test_the_source_of_peaks_is_below(capsys):
    print_table(peaks_table(with_terms(), [samples.batch()]))
    text = capsys.readouterr().out
    assert "at its peak by the compiler's analysis or the device's counter" in text


def test_the_highest_of_all_batches_counts():
    low, high = samples.batch(), samples.batch()
    peak = high.stages[0].peak
    assert peak is not None
    higher = replace(high.stages[0], peak=replace(peak, peak_bytes=9 * MIB))
    high = replace(high, stages=(higher, *high.stages[1:]))
    found = stage_peaks([low, high, low])
    assert [each and each.peak_bytes for each in found] == [9 * MIB, None, 4 * MIB]


def test_the_largest_difference_is_shown_with_its_source():
    assert peaks_line(samples.strategy(), [samples.batch()]) == (
        "memory       largest deviation on node0/cpu:2 + node0/cpu:3: 4 MiB at its peak instead of 2 MiB "
        "(2.00×), by the device's counter"
    )


def test_without_peaks_or_predictions_nothing_is_shown():
    plan, batch = samples.strategy(), samples.batch()
    bare = tuple(replace(times, peak=None) for times in batch.stages)
    assert peaks_line(plan, [replace(batch, stages=bare)]) is None
    stages = tuple(replace(stage, predicted=None) for stage in plan.stages)
    assert peaks_line(replace(plan, stages=stages), [batch]) is None
