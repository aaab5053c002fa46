"""Memory at its peak beside what was predicted, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from llmpq_jax.report._table_style import add_columns, new_table
from llmpq_jax.report.names import devices_text
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.run_record import BatchRecord
    from llmpq_jax.stage.memory_peak import StagePeak

_UNKNOWN = "–"
_SOURCES = {"device": "the device's count", "compiler": "the compiler's account"}


def stage_peaks(batches: Sequence[BatchRecord]) -> list[StagePeak | None]:
    """Returns of each stage the highest peak of all batches; nothing where none has one."""
    found: list[StagePeak | None] = []
    for times in zip(*(batch.stages for batch in batches), strict=True):
        told = [time.peak for time in times if time.peak is not None]
        found.append(max(told, key=lambda peak: peak.peak_bytes, default=None))
    return found


def peaks_table(strategy: Strategy, batches: Sequence[BatchRecord]) -> Table:
    """Puts the bytes of each stage at its peak beside the predicted ones, by part."""
    table = new_table("Memory on each device: predicted → at its peak")
    add_columns(table, "device")
    add_columns(
        *(table, "weights", "KV cache", "work", "all", "ratio"),
        justify="right",
    )
    peaks = stage_peaks(batches)
    for stage, peak in zip(strategy.stages, peaks, strict=True):
        said = stage.predicted
        terms = said and said.memory
        table.add_row(
            devices_text(stage),
            _arrow(
                terms and terms.weights + terms.embedding + terms.head,
                peak and peak.weights,
            ),
            _arrow(terms and terms.kv_cache, peak and peak.kv_cache),
            _arrow(
                terms and terms.workspace + terms.buffers,
                peak and peak.programs + peak.waiting,
            ),
            _arrow(said and said.memory_bytes, peak and peak.peak_bytes),
            f"{peak.peak_bytes / said.memory_bytes:.2f}×"
            if said and peak and said.memory_bytes
            else _UNKNOWN,
        )
    table.caption = (
        "predicted for the sizes that were planned; weights with embedding and head; "
        "work: temporary\nmemory of the hungriest program, its inputs and outputs, and "
        "what waits in the inbox"
    )
    sources = dict.fromkeys(peak.source for peak in peaks if peak is not None)
    if sources:
        counts = " or ".join(_SOURCES[source] for source in sources)
        table.caption += f"\nat its peak by {counts}"
    return table


def peaks_line(strategy: Strategy, batches: Sequence[BatchRecord]) -> str | None:
    """Says where memory was furthest from its prediction; nothing without one."""
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
        f"memory       furthest on {devices_text(stage)}: "
        f"{format_bytes(peak.peak_bytes)} at its peak instead of "
        f"{format_bytes(stage.predicted.memory_bytes)} ({ratio:.2f}×), by "
        f"{_SOURCES[peak.source]}"
    )


def _arrow(predicted: int | None, measured: int | None) -> str:
    sizes = (predicted, measured)
    return " → ".join(_UNKNOWN if s is None else format_bytes(s) for s in sizes)
