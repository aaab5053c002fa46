"""A sweep as CSV and as a picture."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from llmpq_jax.costmodel.quality import total_omega
from llmpq_jax.files import write_text
from llmpq_jax.report.names import gap_text
from llmpq_jax.report.picture_style import INK, QUIET, RULE, new_figure
from llmpq_jax.schema.precision import LOW_BITS
from llmpq_jax.units import counted, format_loss, format_seconds, round_down, round_up

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llmpq_jax.planner import PlanRequest
    from llmpq_jax.planner.whatif.sweep_point import Axis, SweepPoint

# Blue and orange differ in every kind of colour vision; the markers differ too.
_FRONT, _OTHER = "#1f4e79", "#d9822b"
COLUMNS = (
    "sweep",
    "setting",
    "on_front",
    "latency_s",
    "throughput_tokens_per_s",
    "omega",
    "gap",
    "bound",
    "num_devices",
    "devices",
    "batch",
    "prefill_micro_batch",
    "decode_micro_batch",
    "head_bits",
    "kv_bits",
    "bits",
    "solved_in_s",
)
# Of numbers in the CSV; losses and gaps are rounded up, bounds down.
_DIGITS = 9
# Characters of a line below the axis.
_UNIT_CHARACTERS = 105
_LATENCY = "latency of the batch (s)"
_THROUGHPUT = "throughput (new tokens/s)"


class _AxisTexts(NamedTuple):
    title: str
    label: str
    setting: str


_TEXTS: dict[Axis, _AxisTexts] = {
    "quality": _AxisTexts(
        "Latency by the quality loss allowed",
        "estimated loss of quality Σω, summed over the layers",
        "Σω ≤ {}",
    ),
    "batch": _AxisTexts(
        "Throughput and latency by batch", "batch (prompts together)", "batch {}"
    ),
    "devices": _AxisTexts(
        "Latency by the number of devices", "devices used", "devices {}"
    ),
}


def write_csv(
    path: Path, axis: Axis, points: Sequence[SweepPoint], front: Sequence[SweepPoint]
) -> None:
    """Writes every point that has a plan, by setting, and replaces an old file atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in sorted(points, key=lambda point: point.setting):
        if point.strategy is not None:
            writer.writerow(_cells(axis, point, is_on_front=point in front))
    write_text(path, text.getvalue())


def point_line(axis: Axis, point: SweepPoint) -> str:
    """Returns one point as a line."""
    is_loss = axis == "quality"
    shown = format_loss(point.setting) if is_loss else f"{point.setting:g}"
    setting = _TEXTS[axis].setting.format(shown)
    if point.strategy is None:
        found = "no plan found in time" if point.ran_out_of_time else "no plan"
        return f"{setting:<14} {found}"
    certificate = point.strategy.certificate
    assert certificate is not None, "the solver certifies every plan"
    return (
        f"{setting:<14} {format_seconds(point.latency_s)}, "
        f"{point.throughput:,.4g} tokens/s, Σω {format_loss(point.omega)}, "
        f"{counted(point.num_devices, 'device')}, gap {gap_text(certificate.gap)}"
    )


def _cells(axis: Axis, point: SweepPoint, *, is_on_front: bool) -> list[object]:
    plan = point.strategy
    assert plan is not None
    certificate = plan.certificate
    assert certificate is not None, "the solver certifies every plan"
    return [
        axis,
        f"{round_up(point.setting, _DIGITS):.9g}",
        "yes" if is_on_front else "no",
        f"{point.latency_s:.9g}",
        f"{point.throughput:.9g}",
        f"{round_up(point.omega, _DIGITS):.9g}",
        f"{round_up(certificate.gap, 3):.3g}",
        f"{round_down(certificate.bound, _DIGITS):.9g}",
        point.num_devices,
        " ".join(name for stage in plan.stages for name in stage.devices),
        plan.workload.batch,
        plan.micro_batch.prefill,
        plan.micro_batch.decode,
        plan.precision.head_bits,
        plan.precision.kv_bits,
        " ".join(map(str, plan.bits)),
        f"{certificate.seconds:.3g}",
    ]


def sweep_figure(
    axis: Axis,
    points: Sequence[SweepPoint],
    front: Sequence[SweepPoint],
    *,
    request: PlanRequest,
    basis: str,
) -> Figure:
    """Draws the points, each with an error bar for its certificate's gap.

    Points without a plan are left out. `request` is what was solved for each point, and
    `basis` the source of the seconds, such as "measured".
    """
    solved = [point for point in points if point.strategy is not None]
    shown = [_THROUGHPUT, _LATENCY] if axis == "batch" else [_LATENCY]
    figure = new_figure(8.0, 3.6 * len(shown) + 0.8)
    panels = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    figure.suptitle(f"{_TEXTS[axis].title} ({basis})", color=INK, fontsize=13)
    panels[0].set_title(_subject(axis, request), color=QUIET, fontsize=10)
    for panel, what in zip(panels, shown, strict=True):
        _draw(panel, axis, solved, front, what)
    panels[-1].set_xlabel(_TEXTS[axis].label, color=INK)
    if axis == "quality":
        _explain_omega(panels[-1], request)
    if axis == "batch":
        panels[-1].set_xscale("log", base=2)
        sizes = sorted({point.setting for point in solved})
        panels[-1].set_xticks(sizes, [f"{size:g}" for size in sizes])
        panels[-1].minorticks_off()
    elif axis == "devices":
        numbers = sorted({point.num_devices for point in solved})
        panels[0].set_xticks(range(numbers[0], numbers[-1] + 1))
        panels[0].set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", frameon=False, labelcolor=INK
    )
    return figure


def _draw(
    axes: Axes,
    axis: Axis,
    points: Sequence[SweepPoint],
    front: Sequence[SweepPoint],
    what: str,
) -> None:
    is_throughput = what == _THROUGHPUT

    def position(point: SweepPoint) -> tuple[float, float]:
        across = {
            "quality": point.omega,
            "batch": point.setting,
            "devices": point.num_devices,
        }[axis]
        return across, point.throughput if is_throughput else point.latency_s

    ordered = sorted(front, key=position)
    positions = {position(point) for point in ordered}
    others = [point for point in points if position(point) not in positions]
    for chosen, colour, marker, label in (
        (
            ordered,
            _FRONT,
            "o",
            "on the front: no other is better in both (bar: gap of the certificate)",
        ),
        (others, _OTHER, "x", "dominated by another point"),
    ):
        if not chosen:
            continue
        across, up = zip(*map(position, chosen), strict=True)
        gaps = [_open(point, value) for point, value in zip(chosen, up, strict=True)]
        # A plan may be faster than this one by its gap, and so give more tokens.
        ends = [[0.0] * len(gaps), gaps] if is_throughput else [gaps, [0.0] * len(gaps)]
        axes.errorbar(
            across,
            up,
            yerr=ends,
            fmt=marker,
            color=colour,
            ecolor=QUIET,
            capsize=3,
            markersize=7,
            label=label,
        )
    if len(ordered) > 1:
        across, up = zip(*map(position, ordered), strict=True)
        is_stepped = axis != "batch"
        axes.plot(
            across,
            up,
            color=_FRONT,
            linewidth=1.2,
            drawstyle="steps-post" if is_stepped else "default",
        )
    axes.set_ylabel(what, color=INK)
    highest = max(position(point)[1] for point in points)
    # Points that differ little would be at the edge, and be cut there.
    axes.set_ylim(0, 1.12 * highest)
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _subject(axis: Axis, request: PlanRequest) -> str:
    """Returns what was planned: "llama on two servers: 16 prompts of 64 tokens, …"."""
    workload = request.workload
    prompts = "prompts" if axis == "batch" else counted(workload.num_prompts, "prompt")
    longest = "up to " if workload.lengths else ""
    return (
        f"{Path(request.model.path).resolve().name} on {request.cluster.name}: {prompts} "
        f"of {longest}{counted(workload.prompt_length, 'token')}, "
        f"{longest}{workload.new_tokens:,} new ones"
    )


def _explain_omega(axes: Axes, request: PlanRequest) -> None:
    """Adds the unit of Σω, and marks that of all layers at one precision."""
    unit = textwrap.fill(request.sensitivity.unit, _UNIT_CHARACTERS)
    axes.set_xlabel(f"{axes.get_xlabel()}\n({unit})", color=INK, fontsize=9)
    left, right = axes.get_xlim()
    for bits in LOW_BITS:
        uniform = (bits,) * request.architecture.num_layers
        omega = total_omega(request.sensitivity, uniform)
        if bits not in request.bits or not left <= omega <= right:
            continue
        axes.axvline(omega, color=QUIET, linewidth=1.0, linestyle=":")
        axes.annotate(
            f"all layers at {bits} bits ",
            (omega, 0.02),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="bottom",
            color=QUIET,
            fontsize=9,
        )


def _open(point: SweepPoint, value: float) -> float:
    """Returns the part of a latency or throughput that a point's gap leaves open."""
    assert point.strategy is not None
    certificate = point.strategy.certificate
    return value * certificate.gap if certificate is not None else 0.0
