"""Sensitivities and evaluations as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from llmpq_jax.report.table_style import add_columns, new_table
from llmpq_jax.schema.sensitivity import Sensitivity

if TYPE_CHECKING:
    from llmpq_jax.sensitivity.evaluation import ChoiceEvaluation, TextEvaluation

_BAR = 24


def sensitivity_table(sensitivity: Sensitivity) -> Table:
    """Shows the quality loss of each layer, with a bar for 4 bits."""
    table = new_table(f"Quality loss of each layer, by {sensitivity.method}")
    add_columns(table, "layer")
    add_columns(table, "8 bits", "4 bits", justify="right")
    add_columns(table, "")
    by_layer: dict[int, dict[int, float]] = {}
    for row in sensitivity.layers:
        by_layer.setdefault(row.layer, {})[row.bits] = row.omega
    largest = max((row.omega for row in sensitivity.layers), default=0.0)
    for layer, omegas in sorted(by_layer.items()):
        length = round(_BAR * omegas.get(4, 0.0) / largest) if largest else 0
        table.add_row(
            str(layer), _omega(omegas.get(8)), _omega(omegas.get(4)), "█" * length
        )
    for name, omega in (
        ("head", sensitivity.head_8),
        ("cache, all layers", sensitivity.kv_8),
        ("wire, each boundary", sensitivity.wire_8),
    ):
        table.add_row(name, _omega(omega), "", "")
    caption = f"unit: {sensitivity.unit}; weights rounded by {sensitivity.rounding!r}"
    if (fit := sensitivity.calibration) is not None:
        caption += (
            f"\n{fit.num_tokens:,} tokens of {fit.text}; fitted to "
            f"{fit.num_assignments} random assignments of bits: factor "
            f"{fit.factor:.3g}, R² {fit.r2:.3f}"
        )
    table.caption = caption
    return table


def evaluation_table(evaluation: TextEvaluation) -> Table:
    """Compares a strategy with the model at 16 bits."""
    table = new_table(f"The strategy on {evaluation.text}, compared with 16 bits")
    add_columns(table, "")
    add_columns(table, "16 bits", "strategy", "difference", "95 %", justify="right")
    exact, found = evaluation.exact, evaluation.found
    low, high = evaluation.increase_interval
    table.add_row(
        "perplexity",
        f"{exact.perplexity:.4f}",
        f"{found.perplexity:.4f}",
        f"{found.perplexity - exact.perplexity:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
    )
    table.add_row(
        "bits per byte",
        f"{exact.bits_per_byte:.4f}",
        f"{found.bits_per_byte:.4f}",
        f"{found.bits_per_byte - exact.bits_per_byte:+.4f}",
        "",
    )
    low, high = evaluation.kl_interval
    table.add_row(
        "KL to 16 bits, mean",
        "",
        f"{evaluation.kl_mean:.3g}",
        "",
        f"{low:.3g} to {high:.3g}",
    )
    table.add_row(
        "KL to 16 bits, 99th percentile", "", f"{evaluation.kl_99:.3g}", "", ""
    )
    table.add_row("same likeliest token", "", f"{evaluation.agreement:.2%}", "", "")
    table.caption = (
        f"{evaluation.num_tokens:,} tokens predicted in {evaluation.num_windows} windows; "
        "KL in nats per token; intervals by resampling windows"
    )
    return table


def choices_table(choices: ChoiceEvaluation) -> Table:
    """Shows the fraction of questions that each answers correctly."""
    table = new_table(f"{choices.num_questions} questions of {choices.name}")
    add_columns(table, "correct")
    add_columns(table, "16 bits", "strategy", justify="right")
    table.add_row("by likelihood", f"{choices.exact:.1%}", f"{choices.found:.1%}")
    table.add_row(
        "by likelihood per byte",
        f"{choices.exact_per_byte:.1%}",
        f"{choices.found_per_byte:.1%}",
    )
    return table


def _omega(omega: float | None) -> str:
    return "–" if omega is None else f"{omega:.3g}"
