"""A run compared with its prediction, by stage and phase, and the largest difference."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from llmpq_jax.report.names import devices_text
from llmpq_jax.report.table_style import ReportTable, known, new_table
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_seconds

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.phase_times import StagePhase


def deviation_table(
    strategy: Strategy, batches: Sequence[Sequence[StagePhase]]
) -> ReportTable:
    """Shows predicted and measured seconds of each stage in each phase."""
    table = new_table(
        "Predicted and actual, one row per stage and phase",
        *("device", "phase"),
        right=("predicted", "measured", "ratio", "busy", "idle", "queued", "link"),
        identified_by=("device", "phase"),
    )
    for rows in zip(*batches, strict=True):
        first = rows[0]
        ratios = [row.ratio for row in rows if row.ratio is not None]
        measured = [row.measured_s for row in rows if row.measured_s]
        table.add_row(
            devices_text(strategy.stages[first.stage]),
            first.phase,
            known(first.predicted_s, format_seconds),
            known(fmean(measured) if measured else None, format_seconds),
            known(fmean(ratios) if ratios else None, "{:.2f}×".format),
            format_seconds(sum(row.busy_s for row in rows)),
            format_seconds(sum(row.idle_s for row in rows)),
            format_seconds(fmean(row.queued_s for row in rows)),
            format_seconds(fmean(row.link_s for row in rows)),
        )
    table.caption = (
        "predicted and measured: seconds of one micro-batch, predicted for the sizes that "
        "were planned; busy and idle: of the phase; queued: in the inbox of a busy stage; "
        "link: in transfer to the stage"
    )
    return table


def deviation_line(
    strategy: Strategy, batches: Sequence[Sequence[StagePhase]]
) -> str | None:
    """Returns the largest deviation of a run; None if nothing was predicted."""
    found = [
        (max(ratio, 1 / ratio), row.stage, row.phase, row.predicted_s, row.measured_s)
        for rows in batches
        for row in rows
        if row.predicted_s is not None and (ratio := row.ratio) is not None
    ]
    if not found:
        return None
    _, stage, phase, predicted_s, measured_s = max(found)
    return (
        f"deviation    largest in {phase} on {devices_text(strategy.stages[stage])}: "
        f"{format_seconds(measured_s)} instead of {format_seconds(predicted_s)} for a "
        f"micro-batch ({measured_s / predicted_s:.2f}×), predicted for the planned sizes"
    )
