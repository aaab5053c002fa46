"""A plan's use of memory and time, and the gains of changes, as tables and lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from llmpq_jax.report.names import gap_text
from llmpq_jax.report.table_style import UNKNOWN, known, new_table
from llmpq_jax.units import format_bytes, format_loss, format_seconds

if TYPE_CHECKING:
    from llmpq_jax.planner.whatif import Answer, PlanBreakdown
    from llmpq_jax.planner.whatif.breakdown import PhaseBreakdown
    from llmpq_jax.planner.whatif.stage_breakdown import StageBreakdown

_CELLS = 8


def memory_table(breakdown: PlanBreakdown, answers: Sequence[Answer] = ()) -> Table:
    """Shows the bytes of each stage, by part, and which limits bind it."""
    table = new_table("Memory of each stage, on each of its devices", "device")
    for name in ("weights", "scales", "KV", "vocabulary", "workspace", "buffers"):
        table.add_column(name, justify="right", no_wrap=name != "workspace")
    table.add_column("used of allowed", justify="right")
    table.add_column("filled", no_wrap=True)
    table.add_column("binds")
    for stage in breakdown.stages:
        memory = stage.memory
        table.add_row(
            "\n+ ".join(stage.devices),
            format_bytes(memory.weights - stage.scales),
            format_bytes(stage.scales),
            format_bytes(memory.kv_cache),
            format_bytes(memory.embedding + memory.head),
            f"{format_bytes(stage.workspace['prefill'])} /\n"
            f"{format_bytes(stage.workspace['decode'])}",
            format_bytes(memory.buffers),
            f"{format_bytes(memory.total)} of\n{format_bytes(stage.allowed_bytes)}",
            _bar(memory.total / stage.allowed_bytes),
            ", ".join(binding(stage, breakdown, answers)) or UNKNOWN,
        )
    table.caption = (
        "vocabulary: embedding and head; workspace: of prefill / of decode, the larger counts;\n"
        "binds: without this limit a faster plan exists, or the stage is the slowest"
    )
    reserves = {stage.reserve_bytes for stage in breakdown.stages} - {0}
    if reserves:
        sizes = " or ".join(map(format_bytes, sorted(reserves)))
        table.caption += (
            f"\nallowed bytes exclude the {sizes} that are reserved on each device"
        )
    return table


def seconds_table(breakdown: PlanBreakdown) -> Table:
    """Shows the seconds of each stage and link, and the slowest one in each phase."""
    table = new_table(
        "Seconds of one micro-batch, and slack to the slowest",
        "stage or link",
        right=[name for each in breakdown.phases for name in (each.phase, "slack")],
    )
    for number, resource in enumerate(breakdown.phases[0].resources):
        cells: list[str] = []
        for phase in breakdown.phases:
            own = phase.resources[number]
            slack = "slowest"
            if own.slack_s != 0:
                share = own.slack_s / phase.slowest.seconds
                slack = f"{share:.0%} ({format_seconds(own.slack_s)})"
            cells += [format_seconds(own.seconds), slack]
        table.add_row(resource.name, *cells)
    return table


def plan_findings(breakdown: PlanBreakdown, answers: Sequence[Answer]) -> list[str]:
    """Returns the results of the tables as lines."""
    lines = [_phase_line(phase) for phase in breakdown.phases]
    lines += [_room_line(stage) for stage in breakdown.stages]
    if breakdown.omega_budget is None:
        lines.append(
            f"quality      Σω = {format_loss(breakdown.omega)}, without a limit"
        )
    else:
        share = (
            breakdown.omega / breakdown.omega_budget if breakdown.omega_budget else 1.0
        )
        lines.append(
            f"quality      Σω = {format_loss(breakdown.omega)} of {format_loss(breakdown.omega_budget)} "
            f"allowed ({share:.0%})"
        )
    if not breakdown.fits:
        lines.append("fits         no: memory, a pin or the limit on Σω is broken")
    first = next((answer for answer in answers if answer.kind == "plan"), None)
    if first is not None:
        lines.append(_best_line(breakdown, first))
    return lines


def answers_table(answers: Sequence[Answer]) -> Table:
    """Shows the gain of each change, the largest first within each kind."""
    table = new_table(
        "Solved with one change each: which limits bind, and the gain of a little more",
        "change",
        right=("new plan", "gain", "gain bound", "micro-batches", "stages"),
    )
    for answer in answers:
        if answer.kind != "plan":
            table.add_row(*_answer_cells(answer))
    gap = answers[0].before_gap
    table.caption = (
        "gain: of the best plan found, negative where the change costs; gain bound: proven "
        f"upper bound of the gain;\ngains within {gap_text(gap)}, the gap of the plan they are "
        "measured from, count as none; micro-batches: sequences in prefill / in decode"
    )
    if any(map(_weighs_quality, answers)):
        table.caption += (
            "\ngains are in seconds + theta · Σω, the objective of this plan, not in "
            "seconds only"
        )
    return table


def _weighs_quality(answer: Answer) -> bool:
    """Whether the objective has a term of quality besides seconds."""
    if answer.objective is None or answer.latency_s is None:
        return False
    return not math.isclose(answer.objective, answer.latency_s, rel_tol=1e-9)


def _bar(share: float) -> str:
    """Draws a share in cells: "███████░░░ 71%"."""
    full = min(_CELLS, math.floor(share * _CELLS + 1e-9))
    return f"{'█' * full}{'░' * (_CELLS - full)} {share:.0%}"


def binding(
    stage: StageBreakdown, breakdown: PlanBreakdown, answers: Sequence[Answer]
) -> list[str]:
    """Names what binds a stage: its memory where more would help, phases it slows."""
    found: list[str] = []
    for answer in answers:
        is_about = set(answer.devices) & set(stage.devices)
        if answer.kind == "memory" and answer.is_limit and is_about and answer.brings:
            found.append("memory")
    name = " + ".join(stage.devices)
    slows = [phase.phase for phase in breakdown.phases if phase.slowest.name == name]
    return [*found, *slows]


def _phase_line(phase: PhaseBreakdown) -> str:
    terms, num = phase.terms, phase.num_micro_batches
    line = (
        f"{phase.phase:<12} {format_seconds(terms.total_s)}: "
        f"{format_seconds(terms.once_s)} for one micro-batch through all stages"
    )
    if num > 1:
        line += (
            f" + {format_seconds(terms.following_s)} for {num - 1:.3g} more, at the pace "
            "of the slowest"
        )
    if phase.phase == "decode":
        pace = (
            "the pace of the slowest, which is always busy"
            if terms.is_busy
            else "the pace of one micro-batch, so that all stages wait"
        )
        line += f" + {format_seconds(terms.later_s)} for later rounds, at {pace}"
    if phase.dominant == "shared machine":
        line += (
            "; but devices share a machine and do a part of the work in turn: "
            f"{format_seconds(terms.shared_s)} in all"
        )
    return f"{line}; the slowest is {phase.slowest.name}"


def _room_line(stage: StageBreakdown) -> str:
    name = " + ".join(stage.devices)
    if stage.spare_bytes < 0:
        return f"memory       {name} lacks {format_bytes(-stage.spare_bytes)}"
    next_bits = (
        "all layers have the largest bit width"
        if stage.next_bits_bytes is None
        else f"the next bit width of a layer takes {format_bytes(stage.next_bits_bytes)}"
    )
    return (
        f"memory       {name} has {format_bytes(stage.spare_bytes)} left: {next_bits}, "
        f"one more layer {format_bytes(stage.next_layer_bytes)}"
        f"{', so it is full' if stage.is_full else ''}"
    )


def _best_line(breakdown: PlanBreakdown, first: Answer) -> str:
    if first.latency_s is None:
        if first.ran_out_of_time:
            return "best         no plan found in time: raise --time-limit"
        return "best         no plan fits: `llmpq-jax solve` says which device lacks memory"
    gap = f"proven within {gap_text(first.before_gap)} of the best"
    if first.brings or not breakdown.fits or first.latency_s < breakdown.latency_s:
        return (
            f"best         {format_seconds(first.latency_s)} instead of this plan's "
            f"{format_seconds(breakdown.latency_s)}, {gap}; gains are measured from it"
        )
    return f"best         this plan, {format_seconds(breakdown.latency_s)}, {gap}"


def _answer_cells(answer: Answer) -> tuple[str, ...]:
    if answer.objective is None or answer.latency_s is None or answer.gain is None:
        found = "none found in time" if answer.ran_out_of_time else "nothing fits"
        return (answer.text, found, *[UNKNOWN] * 4)
    return (
        answer.text,
        format_seconds(answer.latency_s),
        _gain(answer.gain, answer.before)
        if answer.brings or answer.gain < 0
        else "none",
        _gain(answer.max_gain, answer.before),
        known(answer.micro_batch, lambda pair: f"{pair.prefill} / {pair.decode}"),
        str(answer.num_stages),
    )


def _gain(gain: float, before: float) -> str:
    sign = "−" if gain < 0 else ""
    return f"{sign}{format_seconds(abs(gain))} ({gain / before:+.1%})".replace("-", "−")
