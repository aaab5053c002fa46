"""Sensitivities and evaluations as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmpq_jax.report.table_style import ReportTable, known, new_table
from llmpq_jax.schema.sensitivity import Sensitivity
from llmpq_jax.units import counted

if TYPE_CHECKING:
    from llmpq_jax.sensitivity.evaluation import ChoiceEvaluation, TextEvaluation

_BAR = 24
_omega = "{:.3g}".format


def sensitivity_table(sensitivity: Sensitivity) -> ReportTable:
    """Shows the quality loss of each layer, with a bar for 4 bits."""
    title = f"Quality loss of each layer, by {sensitivity.method}"
    table = new_table(title, "layer", right=("8 bits", "4 bits"), last=("",))
    by_layer: dict[int, dict[int, float]] = {}
    for row in sensitivity.layers:
        by_layer.setdefault(row.layer, {})[row.bits] = row.omega
    largest = max((row.omega for row in sensitivity.layers), default=0.0)
    for layer, omegas in sorted(by_layer.items()):
        length = round(_BAR * omegas.get(4, 0.0) / largest) if largest else 0
        losses = (known(omegas.get(bits), _omega) for bits in (8, 4))
        table.add_row(str(layer), *losses, "█" * length)
    for name, omega in (
        ("head", sensitivity.head_8),
        ("cache, all layers", sensitivity.kv_8),
        ("wire, each boundary", sensitivity.wire_8),
    ):
        table.add_row(name, known(omega, _omega))
    caption = f"unit: {sensitivity.unit}; weights rounded by {sensitivity.rounding!r}"
    if (fit := sensitivity.calibration) is not None:
        caption += (
            f"\n{fit.num_tokens:,} tokens of {fit.text}; fitted to "
            f"{fit.num_assignments} random assignments of bits: factor "
            f"{fit.factor:.3g}, R² {fit.r2:.3f}"
        )
    table.caption = caption
    return table


def evaluation_table(evaluation: TextEvaluation) -> ReportTable:
    """Compares a strategy with the model at 16 bits."""
    table = new_table(
        f"The strategy on {evaluation.text}, compared with 16 bits",
        "",
        right=("16 bits", "strategy", "difference", "95 %"),
    )
    low, high = evaluation.increase_interval
    for name, interval in (
        ("perplexity", f"{low:+.4f} to {high:+.4f}"),
        ("bits_per_byte", ""),
    ):
        before, after = getattr(evaluation.exact, name), getattr(evaluation.found, name)
        values = (f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
        table.add_row(name.replace("_", " "), *values, interval)
    low, high = evaluation.kl_interval
    interval = f"{low:.3g} to {high:.3g}"
    table.add_row("KL to 16 bits, mean", "", f"{evaluation.kl_mean:.3g}", "", interval)
    table.add_row("KL to 16 bits, 99th percentile", "", f"{evaluation.kl_99:.3g}")
    table.add_row("same likeliest token", "", f"{evaluation.agreement:.2%}")
    table.caption = (
        f"{evaluation.num_tokens:,} tokens predicted in {evaluation.num_windows} windows; "
        "KL in nats per token; intervals by resampling windows"
    )
    return table


def choices_table(choices: ChoiceEvaluation) -> ReportTable:
    """Shows the fraction of questions that each answers correctly."""
    title = f"{counted(choices.num_questions, 'question')} of {choices.name}"
    table = new_table(title, "correct", right=("16 bits", "strategy"))
    for name, exact, found in (
        ("by likelihood", choices.exact, choices.found),
        ("by likelihood per byte", choices.exact_per_byte, choices.found_per_byte),
    ):
        table.add_row(name, f"{exact:.1%}", f"{found:.1%}")
    return table
