"""Calibration of measurements by runs, as tables and lines."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from llmpq_jax.costmodel.latency import correction_factors
from llmpq_jax.report.table_style import ReportTable, new_table
from llmpq_jax.schema.measurements import PHASES, LinkTime, Measurements
from llmpq_jax.units import counted, format_bytes, format_seconds


def observed_table(measurements: Measurements) -> ReportTable:
    """Shows each run used for calibration, and the factors of predictions."""
    table = new_table(
        "Runs used for calibration: one row per run, kind and phase",
        *("run (and kind)", "phase"),
        right=("micro-batches", "predicted", "measured", "ratio", "factor"),
        identified_by=("run (and kind)", "phase"),
    )
    factors = correction_factors(measurements)
    for row in measurements.observed:
        table.add_row(
            *(f"{row.run} ({row.kind})", row.phase, f"{row.num_passes:,}"),
            *(format_seconds(row.predicted_s), format_seconds(row.measured_s)),
            f"{row.measured_s / row.predicted_s:.3f}×",
            f"{factors[row.kind, row.phase]:.3f}×",
        )
    table.caption = (
        "measured: seconds of the stages, as if alone on their machine; "
        "factor: of all runs together, multiplies predictions"
    )
    return table


def links_table(links: Sequence[LinkTime]) -> ReportTable:
    """Shows the seconds of transfers from node to node."""
    table = new_table(
        "Hidden states from node (and kind of device) to node",
        *("from", "to"),
        right=("size", "median", "spread"),
        identified_by=("from", "to", "size"),
    )
    for row in links:
        table.add_row(
            f"{row.source_node} ({row.source_kind})",
            f"{row.target_node} ({row.target_kind})",
            format_bytes(row.num_bytes),
            *(format_seconds(row.seconds), f"± {row.spread:.1%}"),
        )
    return table


def factor_lines(measurements: Measurements, kinds: Collection[str]) -> list[str]:
    """Returns a line for each kind whose predictions are calibrated, with its factors."""
    factors = correction_factors(measurements)
    found = []
    for kind in kinds:
        parts = [
            f"{factors[kind, phase]:.3f} in {phase}"
            for phase in PHASES
            if (kind, phase) in factors
        ]
        runs = {row.record for row in measurements.observed if row.kind == kind}
        if parts:
            found.append(
                f"{kind}: seconds are multiplied by {' and '.join(parts)}, calibrated "
                f"from {counted(len(runs), 'run')}"
            )
    return found
