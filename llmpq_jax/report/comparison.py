"""Baselines compared with the joint plan, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from llmpq_jax.report.table_style import UNKNOWN, new_table
from llmpq_jax.units import format_loss, format_seconds, round_up

if TYPE_CHECKING:
    from llmpq_jax.planner.baselines.compare import Comparison

COLUMNS = (
    "method",
    "latency",
    "Σω",
    "joint plan",
    "its Σω",
    "ratio",
    "gap",
    "solved in",
)


def comparison_table(rows: Sequence[Comparison]) -> Table:
    """Shows each baseline and the fastest joint plan of at least its quality."""
    table = new_table(
        "Baselines, each with the fastest joint plan of at least its quality",
        COLUMNS[0],
        right=COLUMNS[1:],
    )
    for row in rows:
        table.add_row(*comparison_cells(row))
    return table


def comparison_markdown(rows: Sequence[Comparison]) -> list[str]:
    """Returns the rows of the table in Markdown."""
    return [f"| {' | '.join(comparison_cells(row))} |" for row in rows]


def comparison_cells(row: Comparison) -> tuple[str, ...]:
    """Returns the cells of a row; only the method, if the baseline finds no plan."""
    if (
        row.latency_s is None
        or row.omega is None
        or row.joint_latency_s is None
        or row.joint_omega is None
        or row.ratio is None
        or row.gap is None
        or row.seconds is None
    ):
        return (row.method, "nothing fits", *[UNKNOWN] * (len(COLUMNS) - 2))
    return (
        row.method,
        format_seconds(row.latency_s),
        format_loss(row.omega),
        format_seconds(row.joint_latency_s),
        format_loss(row.joint_omega),
        f"{row.ratio:.2f}×",
        f"{100 * round_up(row.gap * (1 - 1e-9), 2):.2g} %",
        format_seconds(row.seconds),
    )
