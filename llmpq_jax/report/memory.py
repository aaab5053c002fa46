"""Memory of stages, as compiled and at its peak, compared with its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmpq_jax.report.names import devices_text, layers_text
from llmpq_jax.report.table_style import (
    UNKNOWN,
    ReportTable,
    arrow,
    known,
    new_table,
)
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.run_record import BatchRecord
    from llmpq_jax.stage.abstract import ProgramMemory
    from llmpq_jax.stage.memory_peak import StagePeak

_SOURCES = {"device": "the device's counter", "compiler": "the compiler's analysis"}


def compiled_memory_table(
    strategy: Strategy,
    programs: Sequence[Sequence[ProgramMemory]],
    loaded: Sequence[int | None],
) -> ReportTable:
    """Shows each stage's memory, predicted and by the compiler's analysis.

    Bytes of a stage's loaded weights are None where they were not loaded.
    """
    columns = ["compiled", "predicted", "predicted over", "allowed", "peak in"]
    columns.append("temporary")
    if any(size is not None for size in loaded):
        columns.append("weights loaded")
    title = "Memory on each device: one row per stage"
    table = new_table(title, "device", "layers", right=columns)
    for stage, own, weights in zip(strategy.stages, programs, loaded, strict=True):
        largest = max(own, key=lambda program: program.peak)
        predicted = stage.predicted
        table.add_row(
            *(devices_text(stage), layers_text(stage), format_bytes(largest.peak)),
            known(predicted and predicted.memory_bytes, format_bytes),
            known(
                predicted and predicted.memory_bytes / largest.peak - 1,
                "{:+.1%}".format,
            ),
            known(predicted and predicted.allowed_bytes, format_bytes),
            *(largest.function, format_bytes(largest.temporary)),
            *([] if weights is None else [format_bytes(weights)]),
        )
    table.caption = (
        "compiled: arguments, outputs and temporary memory of the largest program, "
        "less aliased memory, plus the caches of waiting micro-batches"
    )
    return table


def stage_peaks(batches: Sequence[BatchRecord]) -> list[StagePeak | None]:
    """Returns the highest peak of each stage over all batches; None where none was measured."""
    found: list[StagePeak | None] = []
    for times in zip(*(batch.stages for batch in batches), strict=True):
        known = [time.peak for time in times if time.peak is not None]
        found.append(max(known, key=lambda peak: peak.peak_bytes, default=None))
    return found


def peaks_table(strategy: Strategy, batches: Sequence[BatchRecord]) -> ReportTable:
    """Shows predicted and peak bytes of each stage, by part."""
    table = new_table(
        "Memory on each device: predicted → at its peak",
        "device",
        right=("weights", "KV cache", "work", "all", "ratio"),
    )
    peaks = stage_peaks(batches)
    for stage, peak in zip(strategy.stages, peaks, strict=True):
        predicted = stage.predicted
        terms = predicted and predicted.memory
        weights = terms and terms.weights + terms.embedding + terms.head
        pairs = (
            (weights, peak and peak.weights),
            (terms and terms.kv_cache, peak and peak.kv_cache),
            (
                terms and terms.workspace + terms.buffers,
                peak and peak.programs + peak.waiting,
            ),
            (predicted and predicted.memory_bytes, peak and peak.peak_bytes),
        )
        table.add_row(
            devices_text(stage),
            *(arrow(before, found, format_bytes) for before, found in pairs),
            f"{peak.peak_bytes / predicted.memory_bytes:.2f}×"
            if predicted and peak and predicted.memory_bytes
            else UNKNOWN,
        )
    table.caption = (
        "predicted for the sizes that were planned; weights with embedding and head; "
        "work: temporary memory of the largest program, its inputs and outputs, and "
        "waiting messages"
    )
    sources = dict.fromkeys(peak.source for peak in peaks if peak is not None)
    if sources:
        counts = " or ".join(_SOURCES[source] for source in sources)
        table.caption += f"\nat its peak by {counts}"
    return table


def peaks_line(strategy: Strategy, batches: Sequence[BatchRecord]) -> str | None:
    """Returns the largest deviation of memory; None if nothing was predicted or measured."""
    found = []
    for number, (stage, peak) in enumerate(
        zip(strategy.stages, stage_peaks(batches), strict=True)
    ):
        if stage.predicted and stage.predicted.memory_bytes and peak:
            ratio = peak.peak_bytes / stage.predicted.memory_bytes
            if ratio > 0:
                found.append((max(ratio, 1 / ratio), number, ratio, stage, peak))
    if not found:
        return None
    _, _, ratio, stage, peak = max(found, key=lambda each: each[:2])
    assert stage.predicted is not None
    return (
        f"memory       largest deviation on {devices_text(stage)}: "
        f"{format_bytes(peak.peak_bytes)} at its peak instead of "
        f"{format_bytes(stage.predicted.memory_bytes)} ({ratio:.2f}×), by "
        f"{_SOURCES[peak.source]}"
    )
