"""What the compiler says of a strategy's stages, beside what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from llmpq_jax.report._table_style import add_columns, new_table
from llmpq_jax.report.names import devices_text, layers_text
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

if TYPE_CHECKING:
    from llmpq_jax.stage.abstract import ProgramMemory

_UNKNOWN = "–"


def fit_table(
    strategy: Strategy,
    accounts: Sequence[Sequence[ProgramMemory]],
    loaded: Sequence[int | None],
) -> Table:
    """Tells each stage's memory, predicted and by the compiler's account.

    Args:
        strategy: That was compiled.
        accounts: Of each stage's programs.
        loaded: Bytes of each stage's weights on a device, where they were loaded.
    """
    table = new_table("Memory on each device: one row per stage")
    add_columns(table, "device", "layers")
    add_columns(
        *(table, "compiled", "predicted", "predicted over", "allowed"),
        *("most in", "temporary"),
        justify="right",
    )
    if any(size is not None for size in loaded):
        add_columns(table, "weights loaded", justify="right")
    for stage, programs, weights in zip(strategy.stages, accounts, loaded, strict=True):
        most = max(programs, key=lambda program: program.peak)
        said = stage.predicted
        table.add_row(
            *(devices_text(stage), layers_text(stage), format_bytes(most.peak)),
            _UNKNOWN if said is None else format_bytes(said.memory_bytes),
            _UNKNOWN if said is None else f"{said.memory_bytes / most.peak - 1:+.1%}",
            _UNKNOWN if said is None else format_bytes(said.allowed_bytes),
            *(most.function, format_bytes(most.temporary)),
            *([] if weights is None else [format_bytes(weights)]),
        )
    table.caption = (
        "compiled: arguments, outputs and temporary memory of the hungriest program,\n"
        "less what is aliased, and the caches of micro-batches that wait"
    )
    return table
