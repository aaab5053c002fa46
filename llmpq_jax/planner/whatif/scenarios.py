"""What-if scenarios: a plan's problem with one thing changed.

A limit is first removed altogether: what that gains bounds what any more of it could gain,
and if it gains nothing, the limit does not bind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmpq_jax.errors import SpecError
from llmpq_jax.planner.diagnose.pin_conflicts import loosened
from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import Problem, make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.whatif.changes import (
    ChangedDevices,
    devices_to_change,
    with_memory,
    with_speed,
    without_device,
    without_memory_limit,
)
from llmpq_jax.planner.whatif.from_strategy import incumbent_from_strategy
from llmpq_jax.schema.precision import USUAL_BITS
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes, format_loss

ScenarioKind = Literal[
    "plan", "memory", "speed", "quality", "device", "micro-batches", "decision"
]
Known = Sequence[tuple[Instance, Candidate]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Increments:
    """How much more of something a scenario has, as shares: 0.05 is 5 %.

    Attributes:
        memory: Share of a device's memory.
        speed: Share of a device's speed.
        loss: Share of the budget for Σω.
    """

    memory: float = 0.05
    speed: float = 0.10
    loss: float = 0.05


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Scenario:
    """One change of a problem.

    Attributes:
        kind: Kind of thing that is changed.
        subject: Device, pin or limit that is changed; the same in all scenarios about it.
        text: Description of the change.
        devices: Names of the devices that are changed, interchangeable ones included.
        is_limit: Whether a limit is removed altogether.
        subproblems: Function that makes the changed subproblems.
        known: Function that makes plans to start from of the best plan without the change.
    """

    kind: ScenarioKind
    subject: str
    text: str
    devices: tuple[str, ...] = ()
    is_limit: bool = False
    subproblems: Callable[[], Sequence[Instance]]
    known: Callable[[Incumbent], Known] = lambda _: ()


def list_scenarios(
    problem: Problem, strategy: Strategy, plan: Incumbent, increments: Increments
) -> Iterator[Scenario]:
    """Yields the scenarios of a plan; the first one changes nothing."""
    request = problem.request
    subproblems = all_subproblems(problem, omega_budget=request.omega_budget)
    own = plan.instance.micro_batch
    if all(subproblem.micro_batch != own for subproblem in subproblems):
        # The user may have chosen a pair that a search would not try.
        subproblems = (*subproblems, plan.instance)
    about_plan = {"kind": "plan", "subject": "the plan", "text": "nothing changed"}
    yield _changed(subproblems, lambda instance: instance, **about_plan)
    for changed in devices_to_change(problem, plan):
        yield from _about_devices(subproblems, changed, increments)
    if request.omega_budget is not None:
        yield from _about_quality(subproblems, request.omega_budget, increments)
    others = [subproblem for subproblem in subproblems if subproblem.micro_batch != own]
    if others:
        yield Scenario(
            kind="micro-batches",
            subject="micro-batches",
            text=f"another pair than {own.prefill} in prefill and {own.decode} in decode",
            subproblems=lambda: others,
            known=lambda best: [(subproblem, best.candidate) for subproblem in others],
        )
    yield from _about_decisions(request, strategy)


def _changed(
    subproblems: Sequence[Instance],
    change: Callable[[Instance], Instance],
    **about: Any,
) -> Scenario:
    """Makes the same change in all subproblems, in which a plan stays a plan."""
    return Scenario(
        subproblems=lambda: tuple(change(subproblem) for subproblem in subproblems),
        known=lambda best: ((change(best.instance), best.candidate),),
        **about,
    )


def _about_devices(
    subproblems: Sequence[Instance], changed: ChangedDevices, increments: Increments
) -> Iterator[Scenario]:
    members, name = changed.members, changed.text
    about: dict[str, Any] = {"subject": name, "devices": changed.devices}
    yield _changed(
        subproblems,
        lambda i: without_memory_limit(i, members),
        kind="memory",
        text=f"memory without limit on {name}",
        is_limit=True,
        **about,
    )
    extra = round(increments.memory * changed.memory_bytes)
    yield _changed(
        subproblems,
        lambda i: with_memory(i, members, extra),
        kind="memory",
        text=f"{_percent(increments.memory)} more memory on {name}: {format_bytes(extra)}",
        **about,
    )
    yield _changed(
        subproblems,
        lambda i: with_speed(i, members, 1 + increments.speed),
        kind="speed",
        text=f"{_percent(increments.speed)} more speed of {name}",
        **about,
    )
    fewer = [without_device(subproblem, members[0]) for subproblem in subproblems]
    left = [subproblem for subproblem in fewer if subproblem is not None]
    if changed.is_used and not changed.must_use and left:
        what = name if len(members) == 1 else f"one {name[5:]}"
        yield Scenario(
            kind="device", text=f"without {what}", subproblems=lambda: left, **about
        )


def _about_quality(
    subproblems: Sequence[Instance], budget: float, increments: Increments
) -> Iterator[Scenario]:
    about = {"kind": "quality", "subject": "quality"}
    yield _changed(
        subproblems,
        lambda i: replace(i, omega_budget=None),
        text="no limit on Σω",
        is_limit=True,
        **about,
    )
    looser = budget * (1 + increments.loss)
    yield _changed(
        subproblems,
        lambda i: replace(i, omega_budget=looser),
        text=f"Σω up to {_percent(increments.loss)} higher, {format_loss(looser)}",
        **about,
    )


def _about_decisions(request: PlanRequest, strategy: Strategy) -> Iterator[Scenario]:
    """Yields a scenario without each decision of the user: lowest bits and pins."""
    changes: list[tuple[str, PlanRequest]] = []
    lowest = min(request.bits)
    if lowest > min(USUAL_BITS):
        text = f"layers below {lowest} bits allowed"
        bits = tuple(dict.fromkeys((*request.bits, *USUAL_BITS)))
        changes.append((text, replace(request, bits=bits)))
    for name in ("prefill", "decode"):
        rows = getattr(request, name)
        if rows is not None:
            text = f"{name} micro-batches not pinned to {rows}"
            changes.append((text, replace(request, **{name: None})))
    changes += [(f"without {pin}", free(request)) for pin, free in loosened(request)]
    for text, changed in changes:
        try:
            problem = make_problem(changed)
            own = incumbent_from_strategy(problem, strategy)
        except SpecError:
            # Lower precisions were not measured, for example.
            continue
        subproblems = all_subproblems(problem, omega_budget=request.omega_budget)
        yield Scenario(
            kind="decision",
            subject=text,
            text=text,
            is_limit=True,
            subproblems=lambda subproblems=subproblems: subproblems,
            known=lambda _, own=own: ((own.instance, own.candidate),),
        )


def _percent(share: float) -> str:
    return f"{100 * share:g} %"
