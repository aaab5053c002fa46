"""Why there is no plan: which device is short of what, and what would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from llmpq_jax.cost.memory import MemoryTerms
from llmpq_jax.errors import InfeasibleError, SpecError
from llmpq_jax.solver.cases import all_cases, smallest_case
from llmpq_jax.solver.instance import Instance
from llmpq_jax.solver.pins import with_use
from llmpq_jax.solver.placement import Placement
from llmpq_jax.solver.problem import Problem, make_problem
from llmpq_jax.solver.request import PlanRequest
from llmpq_jax.solver.search import search
from llmpq_jax.spec.precision import ALL_BITS
from llmpq_jax.spec.workload import Workload
from llmpq_jax.units import format_bytes

# For each question that an explanation asks of HiGHS; most take milliseconds.
_QUESTION_S = 10.0


def explain(problem: Problem) -> InfeasibleError:
    """Makes the error that says why no case of a problem has a plan."""
    request = problem.request
    num_layers = request.architecture.num_layers
    num_pinned = sum(place.device.use == "always" for place in problem.placed)
    if num_pinned > num_layers and not problem.pools:
        return InfeasibleError(
            f'{num_pinned} devices have use = "always" and the model has {num_layers} '
            'layers: expected no more such devices than layers; write use = "any"'
        )
    clash = _clash(problem)
    if clash is not None:
        return InfeasibleError(clash)
    least = _least_omega(problem) if request.omega_budget is not None else None
    if least is not None:
        return InfeasibleError(
            f"no plan keeps omega within {request.omega_budget:.4g}: the least that fits "
            f"the memory is {least:.4g}; allow that much, or add memory"
        )
    shortage = _shortage(smallest_case(problem, omega_budget=None))
    if shortage is None:
        return InfeasibleError(
            "no choice of devices can embed on its first and hold the head on its last: "
            "expected [[end]] rows of both for the kinds at the ends of the cluster file; "
            'reorder its devices, or write use = "any" on those that need not be used'
        )
    fits = "; ".join(_what_would_fit(problem))
    advice = (
        f"what would fit: {fits}"
        if fits
        else "no smaller batch or prompt would fit: add memory or a device"
    )
    return InfeasibleError(f"no plan fits: {_describe(problem, *shortage)}; {advice}")


def _clash(problem: Problem) -> str | None:
    """Names the pins without which there is a plan; nothing where it is not they."""
    loose = list(_loosened(problem.request))
    if not loose:
        return None
    free = problem.request
    for _, change in loose:
        free = change(free)
    if not _is_feasible(free):
        return None
    alone = [what for what, change in loose if _is_feasible(change(problem.request))]
    if alone:
        others = (
            ""
            if len(alone) == 1
            else "; so there is without " + ", or without ".join(alone[1:])
        )
        return f"no plan fits with {alone[0]}, and without it there is one{others}: drop or change that pin, or add memory"
    told = ", ".join(what for what, _ in loose)
    return f"no plan fits with these pins together: {told}; and without all of them there is one: drop or change some of them, or add memory"


def _loosened(
    request: PlanRequest,
) -> Iterator[tuple[str, Callable[[PlanRequest], PlanRequest]]]:
    """Yields every pin of layers, bits and devices, and how to do without it."""
    for pin in request.pins:
        yield (
            str(pin),
            lambda r, pin=pin: replace(
                r, pins=tuple(other for other in r.pins if other != pin)
            ),
        )
    for place in request.cluster.placed:
        if place.device.use != "any":
            what = "idle" if place.device.use == "never" else "in use"
            yield (
                f"{place.name} pinned {what}",
                lambda r, name=place.name: replace(
                    r, cluster=with_use(r.cluster, {name: "any"})
                ),
            )


def _is_feasible(request: PlanRequest) -> bool:
    try:
        problem = make_problem(request)
    except SpecError:
        return False
    cases = all_cases(problem, omega_budget=request.omega_budget)
    result = search(cases, time_limit_s=_QUESTION_S, relative_gap=1.0, goal="omega")
    return result.found is not None


def _least_omega(problem: Problem) -> float | None:
    result = search(
        all_cases(problem, omega_budget=None),
        time_limit_s=_QUESTION_S,
        relative_gap=1e-6,
        goal="omega",
    )
    return result.found.value if result.found else None


def _shortage(instance: Instance) -> tuple[Instance, Placement, list[float]] | None:
    """The plan that lacks the least memory in some order, and what each device lacks.

    Orders differ in which devices hold the ends; the larger ones are tried there.
    """
    by_size = np.argsort(-instance.allowed_bytes, kind="stable").tolist()
    orders = [list(range(instance.num_devices)), by_size, by_size[::-1]]
    orders.append([*by_size[:1], *by_size[2:], *by_size[1:2]])
    found = [_shortage_in(instance, order) for order in orders]
    least = [lack for lack in found if lack is not None]
    return min(least, key=lambda lack: sum(lack[2]), default=None)


def _shortage_in(
    instance: Instance, order: list[int]
) -> tuple[Instance, Placement, list[float]] | None:
    from llmpq_jax.solver.extract import read_placement
    from llmpq_jax.solver.formulation import formulate
    from llmpq_jax.solver.highs import solve

    ordered = instance.in_order(order)
    formulation = formulate(ordered, goal="shortage")
    model = formulation.model
    outcome = solve(model, time_limit_s=_QUESTION_S, relative_gap=1e-3)
    if not outcome.has_solution:
        return None
    placement = read_placement(model, ordered)
    lacks = [0.0] * len(order)
    for j in model.J:
        lacks[order[j]] = model.shortage[j].value * formulation.unit
    devices = tuple(order[j] for j in placement.devices)
    return instance, replace(placement, devices=devices), lacks


def _describe(
    problem: Problem, instance: Instance, placement: Placement, lacks: list[float]
) -> str:
    worst = int(np.argmax(lacks))
    stage = placement.devices.index(worst)
    columns = placement.columns[stage]
    workspace = max(instance.workspace_bytes[worst, b] for b in columns)
    is_first, is_last = stage == 0, stage == len(placement.devices) - 1
    if is_first:
        workspace = max(workspace, instance.embedding_workspace_bytes[worst])
    if is_last:
        workspace = max(workspace, instance.head_workspace_bytes[worst])
    terms = MemoryTerms(
        weights=int(sum(instance.layer_bytes[worst, b] for b in columns)),
        kv_cache=len(columns) * int(instance.kv_bytes[worst]),
        embedding=int(instance.embedding_bytes[worst]) if is_first else 0,
        head=int(instance.head_bytes[worst]) if is_last else 0,
        workspace=int(workspace),
        buffers=instance.buffer_bytes,
    )
    lowest = min(instance.bits[b] for b in columns)
    others = sum(lack > 0 for lack in lacks) - 1
    more = ""
    if others > 0:
        more = f", and {others} other device{'s' if others > 1 else ''} too"
    layers = f"{len(columns)} layer{'s' if len(columns) > 1 else ''}"
    return (
        f"{problem.units[worst].name} is short by {format_bytes(lacks[worst])} even at "
        f"{lowest} bits ({layers}: {terms}; it may use "
        f"{format_bytes(instance.allowed_bytes[worst])}){more}"
    )


def _what_would_fit(problem: Problem) -> Iterator[str]:
    """Yields changes that have been tried and do fit."""
    request = problem.request
    workload = request.workload

    def fits(changed: Workload) -> bool:
        return _fits(replace(problem, request=replace(request, workload=changed)))

    pins = [rows for rows in (request.prefill, request.decode) if rows]
    batch = _largest(
        max(pins, default=1),
        workload.batch - 1,
        lambda rows: fits(replace(workload, batch=rows)),
    )
    if batch:
        yield f"a batch of {batch}"
    prompt = _largest(
        1,
        workload.prompt_length - 1,
        lambda length: fits(replace(workload, prompt_length=length)),
    )
    if prompt:
        yield f"prompts of at most {prompt} tokens"
    lower = tuple(bits for bits in ALL_BITS if bits < min(request.bits))
    if lower and _would_fit(replace(request, bits=(*request.bits, *lower))):
        yield f"layers at {' or '.join(str(bits) for bits in lower)} bits"
    if 8 not in request.head_bits and _would_fit(replace(request, head_bits=(8,))):
        yield "the head at 8 bits"
    if 8 not in request.kv_bits and _would_fit(replace(request, kv_bits=(8,))):
        yield "a cache at 8 bits"


def _largest(least: int, most: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number that fits; smaller ones fit where a larger one does."""
    if most < least or not fits(least):
        return None
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least


def _would_fit(request: PlanRequest) -> bool:
    try:
        return _fits(make_problem(request))
    except SpecError:
        return False


def _fits(problem: Problem) -> bool:
    case = smallest_case(problem, omega_budget=problem.request.omega_budget)
    result = search([case], time_limit_s=_QUESTION_S, relative_gap=1.0, goal="omega")
    return result.found is not None
