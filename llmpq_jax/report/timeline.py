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
from llmpq_jax.units import counted, format_seconds

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


def write_timeline(
    path: Path,
    strategy: Strategy,
    batch: BatchRecord,
    predicted: BatchRecord | None = None,
) -> None:
    """Writes a batch's timeline as a picture, below its prediction if there is one."""
    figure = (
        timeline_figure(strategy, batch)
        if predicted is None
        else comparison_figure(strategy, predicted, batch)
    )
    save_figure(figure, path)


def comparison_figure(
    strategy: Strategy, predicted: BatchRecord, batch: BatchRecord
) -> Figure:
    """Draws the predicted timeline of a batch above the measured one.

    Both have the same time axis; of a long batch only the start is shown.
    """
    shown_s = max(predicted.latency_s, batch.latency_s)
    zoom_s = max(_end_of_start(predicted), _end_of_start(batch))
    if zoom_s < 0.6 * shown_s:
        shown_s = zoom_s
    before, after = map(format_seconds, (predicted.latency_s, batch.latency_s))
    above = (
        f"Predicted for stages only, without links and shared machines: {before} in "
        f"all, shown is {_part(predicted, shown_s)}"
    )
    below = f"Measured: {after} in all, shown is {_part(batch, shown_s)}"
    return _figure(
        f"{_size(batch)}: the predicted and the measured timeline of each stage",
        strategy,
        [(predicted, shown_s, above), (batch, shown_s, below)],
    )


def timeline_figure(strategy: Strategy, batch: BatchRecord) -> Figure:
    """Draws the timeline of a batch; a long one twice, its start enlarged above it."""
    panels = [(batch, batch.latency_s, "The whole batch")]
    zoom_s = _end_of_start(batch)
    if zoom_s < 0.6 * batch.latency_s:
        panels.insert(0, (batch, zoom_s, f"The start: {_part(batch, zoom_s)}"))
    latency = format_seconds(batch.latency_s)
    title = f"{_size(batch)} in {latency}: the timeline of each stage"
    return _figure(title, strategy, panels)


def _size(batch: BatchRecord) -> str:
    prompts = counted(batch.num_requests, "prompt")
    return f"{prompts}, {counted(batch.num_new_tokens, 'new token')}"


def _figure(
    title: str, strategy: Strategy, panels: Sequence[tuple[BatchRecord, float, str]]
) -> Figure:
    """Draws batches, each up to a time in seconds and under a title."""
    names = [
        f"{devices_text(stage)}\nlayers {layers_text(stage)}"
        for stage in strategy.stages
    ]
    height_in = 1.0 + len(panels) * (1.0 + _ROW_IN * len(names))
    figure = new_figure(_WIDTH_IN, height_in)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    figure.suptitle(title, color=INK, fontsize=14)
    for each, (batch, end_s, what) in zip(axes, panels, strict=True):
        _draw(each, batch.events, names, end_s, what)
    _add_legend(figure)
    return figure


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


def _add_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colours[0], label=phase) for phase, colours in PHASE_COLOURS.items()
    ]
    figure.legend(
        handles=handles,
        title="numbers and shades: micro-batches",
        title_fontsize=9,
        fontsize=10,
        ncols=2,
        loc="outside lower left",
        frameon=False,
    )


def _end_of_start(batch: BatchRecord) -> float:
    """Returns the time at which the first rounds of decode end.

    Prompts that waited for a slot are prefilled later.
    """
    decode_s = (
        event.ended_s
        for event in batch.events
        if event.phase == "decode" and event.step <= _ROUNDS_SHOWN
    )
    return max(decode_s, default=batch.prefill_s)


def _part(batch: BatchRecord, end_s: float) -> str:
    """Names what of a batch is done by a time."""
    if end_s >= batch.latency_s:
        return "the whole batch"
    if end_s < batch.prefill_s:
        return "the start of prefill"
    unfinished = [
        event.step
        for event in batch.events
        if event.phase == "decode" and event.ended_s > end_s
    ]
    rounds = counted(min(unfinished, default=1) - 1, "round")
    return f"prefill and the first {rounds} of decode"
