"""A run as a picture: one row per stage, its micro-batches over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmpq_jax.report.names import devices_text, layers_text
from llmpq_jax.report.picture_style import (
    INK,
    PHASE_COLOURS,
    QUIET,
    RULE,
    new_figure,
    save_figure,
)
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmpq_jax.runtime.analysis.run_record import BatchRecord
    from llmpq_jax.stage.message import StageEvent

_WIDTH_IN = 12.0
_ROW_IN = 0.5
_ROUNDS_SHOWN = 3
# Width of a label's digit, as a fraction of the axes.
_DIGIT_SHARE = 0.0065


def write_comparison(
    path: Path, strategy: Strategy, predicted: BatchRecord, batch: BatchRecord
) -> None:
    """Writes `comparison_figure` as a picture."""
    save_figure(comparison_figure(strategy, predicted, batch), path)


def write_timeline(path: Path, strategy: Strategy, batch: BatchRecord) -> None:
    """Writes `timeline_figure` as a picture."""
    save_figure(timeline_figure(strategy, batch), path)


def comparison_figure(
    strategy: Strategy, predicted: BatchRecord, batch: BatchRecord
) -> Figure:
    """Draws the predicted timeline of a batch above the measured one.

    Both have the same time axis; of a long batch only the start is shown.
    """
    names = _names(strategy)
    figure = new_figure(_WIDTH_IN, 1.0 + 2 * (1.0 + _ROW_IN * len(names)))
    panels = figure.subplots(2, 1)
    end_s = max(predicted.latency_s, batch.latency_s)
    zoom_s = max(_end_of_start(predicted), _end_of_start(batch))
    shown_s, what = end_s, "the whole batch"
    if zoom_s < 0.6 * end_s:
        shown_s = zoom_s
        what = f"prefill and the first {_ROUNDS_SHOWN} rounds of decode"
    figure.suptitle(
        f"{batch.num_requests} prompts, {batch.num_new_tokens:,} new tokens: the "
        "predicted and the measured timeline of each stage",
        color=INK,
        fontsize=14,
    )
    title = (
        f"Predicted for stages only, without links and shared machines: "
        f"{format_seconds(predicted.latency_s)} in all, shown is {what}"
    )
    _draw(panels[0], predicted.events, names, shown_s, title)
    title = f"Measured: {format_seconds(batch.latency_s)} in all, shown is {what}"
    _draw(panels[1], batch.events, names, shown_s, title)
    _add_legend(panels[0])
    return figure


def timeline_figure(strategy: Strategy, batch: BatchRecord) -> Figure:
    """Draws the timeline of a batch; a long one twice, its start enlarged above it."""
    zoom_s = _end_of_start(batch)
    has_zoom = zoom_s < 0.6 * batch.latency_s
    names = _names(strategy)
    num_panels = 2 if has_zoom else 1
    height_in = 1.0 + num_panels * (1.0 + _ROW_IN * len(names))
    figure = new_figure(_WIDTH_IN, height_in)
    panels = figure.subplots(num_panels, 1, squeeze=False)[:, 0]
    figure.suptitle(
        f"{batch.num_requests} prompts, {batch.num_new_tokens:,} new tokens in "
        f"{format_seconds(batch.latency_s)}: the timeline of each stage",
        color=INK,
        fontsize=14,
    )
    if has_zoom:
        what = f"The start: prefill and the first {_ROUNDS_SHOWN} rounds of decode"
        _draw(panels[0], batch.events, names, zoom_s, what)
    _draw(panels[-1], batch.events, names, batch.latency_s, "The whole batch")
    _add_legend(panels[0])
    return figure


def _names(strategy: Strategy) -> list[str]:
    return [
        f"{devices_text(stage)}\nlayers {layers_text(stage)}"
        for stage in strategy.stages
    ]


def _draw(
    axes: Axes,
    events: Sequence[StageEvent],
    names: Sequence[str],
    end_s: float,
    title: str,
) -> None:
    scale, unit = (1e3, "ms") if end_s < 1 else (1.0, "s")
    # One collection for all spans of a colour: a long run has tens of thousands.
    spans: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event.started_s >= end_s:
            continue
        width = (min(event.ended_s, end_s) - event.started_s) * scale
        start = event.started_s * scale
        colour = PHASE_COLOURS[event.phase][event.micro_batch % 2]
        spans[event.stage, colour].append((start, width))
        label = str(event.micro_batch)
        if width > _DIGIT_SHARE * (len(label) + 1) * end_s * scale:
            axes.text(
                start + width / 2,
                event.stage,
                label,
                ha="center",
                va="center",
                fontsize=9,
                color="white" if event.phase == "prefill" else INK,
            )
    for (stage, colour), ranges in spans.items():
        axes.broken_barh(ranges, (stage - 0.37, 0.74), facecolor=colour, linewidth=0)
    axes.set_xlim(0, end_s * scale)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, fontsize=10, color=INK)
    axes.set_xlabel(unit, color=QUIET, loc="right", fontsize=10)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.tick_params(axis="x", labelsize=10, colors=QUIET)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)


def _add_legend(axes: Axes) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colours[0], label=phase) for phase, colours in PHASE_COLOURS.items()
    ]
    axes.legend(
        handles=handles,
        title="numbers and shades: micro-batches",
        title_fontsize=9,
        fontsize=10,
        ncols=2,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
    )


def _end_of_start(batch: BatchRecord) -> float:
    """Returns the time at which the first rounds of decode end."""
    return max(
        event.ended_s
        for event in batch.events
        if event.phase == "prefill" or event.step <= _ROUNDS_SHOWN
    )
