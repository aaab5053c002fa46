"""A plan as a picture: bars are devices, cells are layers, colour is precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmpq_jax.report._picture_style import (
    BITS_COLOURS,
    BITS_INK,
    INK,
    QUIET,
    new_figure,
    save_figure,
)
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmpq_jax.schema.strategy import Stage

_WIDTH_IN = 9.0
_ROW_IN = 0.62


def write_strip(path: Path, strategy: Strategy) -> None:
    """Draws a strategy as PNG or SVG, as the path's suffix says."""
    stages = strategy.stages
    figure = new_figure(_WIDTH_IN, 1.3 + _ROW_IN * len(stages))
    axes = figure.subplots()
    for row, stage in enumerate(stages):
        _draw_layers(axes, row, stage)
        _draw_memory(axes, row, stage, strategy.model.num_layers)
    _finish(axes, strategy)
    save_figure(figure, path)


def _draw_layers(axes: Axes, row: int, stage: Stage) -> None:
    first, end = stage.layers
    for layer, bits in zip(range(first, end), stage.bits, strict=True):
        axes.barh(
            row,
            0.94,
            left=layer + 0.03,
            height=0.72,
            color=BITS_COLOURS[bits],
            linewidth=0,
        )
        axes.text(
            layer + 0.5,
            row,
            str(bits),
            ha="center",
            va="center",
            fontsize=10 if end - first < 24 else 7,
            color=BITS_INK[bits],
        )


def _draw_memory(axes: Axes, row: int, stage: Stage, num_layers: int) -> None:
    if stage.predicted is None:
        return
    used, allowed = stage.predicted.memory_bytes, stage.predicted.allowed_bytes
    axes.text(
        num_layers * 1.02,
        row,
        f"{format_bytes(used)}\nof {format_bytes(allowed)}",
        va="center",
        fontsize=9,
        color=QUIET,
    )


def _finish(axes: Axes, strategy: Strategy) -> None:
    from matplotlib.patches import Patch

    num_layers = strategy.model.num_layers
    names = [" +\n".join(stage.devices) for stage in strategy.stages]
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, num_layers * 1.16)
    axes.set_yticks(range(len(names)), names, fontsize=10, color=INK)
    step = max(1, num_layers // 16)
    layers = range(0, num_layers, step)
    axes.set_xticks([layer + 0.5 for layer in layers], [str(n) for n in layers])
    axes.set_xlabel("layer", color=QUIET, fontsize=10, loc="left")
    axes.tick_params(length=0, labelsize=10)
    axes.tick_params(axis="x", colors=QUIET)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(
        f"{Path(strategy.model.path).name}: {num_layers} layers on {len(names)} devices",
        loc="left",
        fontsize=12,
        color=INK,
    )
    shown = sorted(set(strategy.bits), reverse=True)
    axes.legend(
        handles=[Patch(color=BITS_COLOURS[b], label=f"{b} bits") for b in shown],
        ncols=len(shown),
        fontsize=10,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.0,
    )
