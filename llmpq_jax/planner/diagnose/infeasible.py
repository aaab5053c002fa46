"""Why there is no plan: which device is short of memory, and which changes help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner.diagnose.memory_shortfall import StageShortfall, min_shortfall
from llmpq_jax.planner.diagnose.pin_conflicts import pin_clash
from llmpq_jax.planner.diagnose.relaxations import repairs
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.search.branch_and_bound import min_omega
from llmpq_jax.units import format_bytes, format_seconds, round_up

# Seconds for the least Σω; most searches take milliseconds.
_SEARCH_S = 10.0
_MAX_NAMED = 4


def explain(
    problem: Problem, on_note: Callable[[str], None] = lambda _: None
) -> InfeasibleError:
    """Returns the error that says why no subproblem has a plan, which has been proven.

    `on_note` receives what is tried, which may take a minute.
    """
    request = problem.request
    num_layers = request.architecture.num_layers
    num_pinned = sum(own.device.use == "always" for own in problem.node_devices)
    if num_pinned > num_layers and not problem.device_groups:
        return InfeasibleError(
            f'{num_pinned} devices have use = "always" and the model has {num_layers} '
            'layers: expected no more such devices than layers; write use = "any"'
        )
    on_note("no plan fits; looking for the reason")
    budget = request.omega_budget
    clash = pin_clash(request)
    lowest = None
    if clash is None and budget is not None:
        subproblems = all_subproblems(problem, omega_budget=None)
        found = min_omega(subproblems, time_limit_s=_SEARCH_S)
        lowest = found.incumbent
        if lowest is None and not found.is_complete:
            return InfeasibleError(
                f"no plan keeps omega within {budget:g}: the least that fits the memory "
                f"was not found in {format_seconds(_SEARCH_S)}; allow more with "
                "--omega-budget, or leave it out"
            )
        if lowest is None:
            # Without pins the budget still rules out every plan, without the budget the
            # pins.
            clash = pin_clash(replace(request, omega_budget=None))
            if clash is not None:
                clash += f", but none with omega within {budget:g}"
    if clash is not None:
        fits = "; ".join(repair.text for repair in repairs(request, on_note))
        advice = f"what would do: {fits}" if fits else "drop or change a pin"
        return InfeasibleError(f"{clash}; {advice}")
    if lowest is not None:
        # With fewer digits it might read the same as the budget that is too small.
        least = f"{round_up(lowest.value, 9):.9g}"
        return InfeasibleError(
            f"no plan keeps omega within {budget:.9g}: the least that fits "
            f"the memory is {least}; what would do: an omega of {least}"
            + "".join(f"; {repair.text}" for repair in repairs(request, on_note))
        )
    smallest = min(
        all_subproblems(problem, omega_budget=None, only_smallest=True),
        key=lambda subproblem: (subproblem.head_bits, subproblem.kv_bits),
    )
    stages = min_shortfall(smallest)
    if stages is None:
        return InfeasibleError(
            "no choice of devices can embed on its first and hold the head on its last: "
            "expected [[vocabulary_layer]] rows of both for devices that may be used together; "
            'measure them, or write use = "any" on devices that need not be used'
        )
    fits = "; ".join(repair.text for repair in repairs(request, on_note))
    advice = (
        f"what would fit: {fits}"
        if fits
        else "nothing that was tried would fit: no smaller batch, shorter prompt or "
        "continuation, no fewer bits, no more devices of one kind or memory on one"
    )
    return InfeasibleError(f"no plan fits: {_describe(problem, stages)}; {advice}")


def _describe(problem: Problem, stages: tuple[StageShortfall, ...]) -> str:
    """Says what the plan of the least shortfall lacks, the worst device first."""
    short = [stage for stage in stages if stage.lack_bytes]
    if not short:
        return "each stage would fit a device, but not with all pins of layers, bits and devices"
    worst, *others = sorted(short, key=lambda stage: -stage.lack_bytes)
    unit = problem.execution_units[worst.device]
    layers = f"{worst.num_layers} layer{'s' if worst.num_layers > 1 else ''}"
    text = (
        f"{unit.name} is short by {format_bytes(worst.lack_bytes)} even at "
        f"{worst.bits} bits ({layers}: {worst.terms}; it may use "
        f"{format_bytes(unit.node_devices[0].device.usable_bytes)}), most of it for the {_part(worst)}"
    )
    for other in others[:_MAX_NAMED]:
        name = problem.execution_units[other.device].name
        text += f", {name} by {format_bytes(other.lack_bytes)} ({_part(other)})"
    if len(others) > _MAX_NAMED:
        text += f" and {len(others) - _MAX_NAMED} more"
    return text


def _part(stage: StageShortfall) -> str:
    """Returns the part of a stage that needs the most bytes."""
    terms = stage.terms
    parts = {
        "weights": terms.weights,
        "KV cache": terms.kv_cache,
        "embedding and head": terms.embedding + terms.head,
        "workspace and buffers": terms.workspace + terms.buffers,
    }
    return max(parts, key=lambda name: parts[name])
