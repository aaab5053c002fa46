"""Writes docs/plan.png: a plan whose bars are devices, cells layers and colours bit widths.

Run `python -m tools.write_plan_picture`, with `--check` to compare only. The picture
carries a text of what it shows, because pixels differ with fonts and matplotlib.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from llmpq_jax.report.names import devices_text
from llmpq_jax.report.picture_style import (
    BITS_COLOURS,
    BITS_INK,
    INK,
    QUIET,
    new_figure,
    save_figure,
)
from llmpq_jax.schema.record_files import read_strategy
from llmpq_jax.schema.strategy import Stage, Strategy
from llmpq_jax.units import format_bytes
from tools.generated import ROOT

STRATEGY = ROOT / "strategies/paper-05/strategy.toml"
PICTURE = ROOT / "docs/plan.png"

_KEY = "Description"
_WIDTH_IN = 12.0
_ROW_IN = 0.5


def description(strategy: Strategy) -> str:
    """Returns what the picture of a strategy shows, as JSON."""
    shown = {
        "title": _title(strategy),
        "stages": [
            [devices_text(stage), stage.layers, stage.bits, _memory_text(stage)]
            for stage in strategy.stages
        ],
    }
    return json.dumps(shown)


def embedded_description(path: Path) -> str:
    """Returns the description that a picture carries; empty if it has none."""
    with Image.open(path) as image:
        return str(image.info.get(_KEY, ""))


def write_plan_picture(path: Path, strategy: Strategy) -> None:
    """Writes the picture of a strategy, with its description."""
    metadata = {_KEY: description(strategy)}
    save_figure(plan_figure(strategy), path, metadata=metadata)


def plan_figure(strategy: Strategy) -> Figure:
    """Draws a strategy."""
    stages = strategy.stages
    figure = new_figure(_WIDTH_IN, 1.3 + _ROW_IN * len(stages))
    axes = figure.subplots()
    num_layers = strategy.model.num_layers
    for row, stage in enumerate(stages):
        _draw_layers(axes, row, stage, num_layers)
        axes.text(
            *(num_layers * 1.01, row, _memory_text(stage)),
            va="center",
            fontsize=9,
            color=QUIET,
        )
    _finish(axes, strategy)
    return figure


def _title(strategy: Strategy) -> str:
    devices = {name for stage in strategy.stages for name in stage.devices}
    name = Path(strategy.model.path).name
    return f"{name}: {strategy.model.num_layers} layers on {len(devices)} devices"


def _memory_text(stage: Stage) -> str:
    if stage.predicted is None:
        return ""
    used, allowed = stage.predicted.memory_bytes, stage.predicted.allowed_bytes
    return f"{format_bytes(used)}\nof {format_bytes(allowed)}"


def _draw_layers(axes: Axes, row: int, stage: Stage, num_layers: int) -> None:
    layers = range(*stage.layers)
    axes.barh(
        [row] * len(layers),
        0.94,
        left=[layer + 0.03 for layer in layers],
        height=0.72,
        color=[BITS_COLOURS[bits] for bits in stage.bits],
        linewidth=0,
    )
    for layer, bits in zip(layers, stage.bits, strict=True):
        axes.text(
            *(layer + 0.5, row, str(bits)),
            ha="center",
            va="center",
            fontsize=10 if num_layers < 24 else 7,
            color=BITS_INK[bits],
        )


def _finish(axes: Axes, strategy: Strategy) -> None:
    num_layers = strategy.model.num_layers
    names = [" +\n".join(stage.devices) for stage in strategy.stages]
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, num_layers * 1.1)
    axes.set_yticks(range(len(names)), names, fontsize=10, color=INK)
    layers = range(0, num_layers, max(1, num_layers // 16))
    axes.set_xticks([layer + 0.5 for layer in layers], [str(n) for n in layers])
    axes.set_xlabel("layer", color=QUIET, fontsize=10, loc="left")
    axes.tick_params(length=0, labelsize=10)
    axes.tick_params(axis="x", colors=QUIET)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(_title(strategy), loc="left", fontsize=12, color=INK)
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


def main(arguments: Sequence[str], *, path: Path = PICTURE) -> int:
    """Writes `path`, or with `--check` compares its description; returns the exit code."""
    if list(arguments) not in ([], ["--check"]):
        print("usage: python -m tools.write_plan_picture [--check]", file=sys.stderr)
        return 2
    strategy = read_strategy(STRATEGY)
    if not arguments:
        write_plan_picture(path, strategy)
    elif not path.exists() or embedded_description(path) != description(strategy):
        command = "python -m tools.write_plan_picture"
        print(f"{path.name} is out of date: run {command}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
