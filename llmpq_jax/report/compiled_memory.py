"""Memory of compiled stages, compared with its prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from llmpq_jax.report.names import devices_text, layers_text
from llmpq_jax.report.table_style import add_columns, new_table
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

if TYPE_CHECKING:
    from llmpq_jax.stage.abstract import ProgramMemory

_UNKNOWN = "–"


def compiled_memory_table(
    strategy: Strategy,
    programs: Sequence[Sequence[ProgramMemory]],
    loaded: Sequence[int | None],
) -> Table:
    """Shows each stage's memory, predicted and by the compiler's analysis.

    Args:
        strategy: Strategy that was compiled.
        programs: Memory of the programs of each stage.
        loaded: Bytes of each stage's weights on a device; None where not loaded.
    """
    table = new_table("Memory on each device: one row per stage")
    add_columns(table, "device", "layers")
    add_columns(
        *(table, "compiled", "predicted", "predicted over", "allowed"),
        *("peak in", "temporary"),
        justify="right",
    )
    if any(size is not None for size in loaded):
        add_columns(table, "weights loaded", justify="right")
    for stage, own, weights in zip(strategy.stages, programs, loaded, strict=True):
        largest = max(own, key=lambda program: program.peak)
        predicted = stage.predicted
        table.add_row(
            *(devices_text(stage), layers_text(stage), format_bytes(largest.peak)),
            _UNKNOWN if predicted is None else format_bytes(predicted.memory_bytes),
            _UNKNOWN
            if predicted is None
            else f"{predicted.memory_bytes / largest.peak - 1:+.1%}",
            _UNKNOWN if predicted is None else format_bytes(predicted.allowed_bytes),
            *(largest.function, format_bytes(largest.temporary)),
            *([] if weights is None else [format_bytes(weights)]),
        )
    table.caption = (
        "compiled: arguments, outputs and temporary memory of the largest program,\n"
        "less aliased memory, plus the caches of waiting micro-batches"
    )
    return table
