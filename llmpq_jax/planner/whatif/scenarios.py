"""What-if scenarios: a plan's problem with one thing changed.

A limit is first removed altogether: what that gains bounds what any more of it could gain,
and if it gains nothing, the limit does not bind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from llmpq_jax.errors import SpecError
from llmpq_jax.planner.diagnose.conflicts import loosened
from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import Problem, make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.whatif.changed_devices import ChangedDevices, devices_to_change
from llmpq_jax.planner.whatif.changes import (
    with_memory,
    with_speed,
    without_device,
    without_memory_limit,
)
from llmpq_jax.planner.whatif.from_strategy import incumbent_from_strategy
from llmpq_jax.schema.precision import ALL_BITS
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

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


class _SearchInputs(TypedDict):
    subproblems: Callable[[], Sequence[Instance]]
    known: Callable[[Incumbent], Known]


class _Subject(TypedDict):
    subject: str
    devices: tuple[str, ...]


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
    same = _changed(subproblems, lambda instance: instance)
    yield Scenario(kind="plan", subject="the plan", text="nothing changed", **same)
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
    subproblems: Sequence[Instance], change: Callable[[Instance], Instance]
) -> _SearchInputs:
    """Makes the same change in all subproblems, in which a plan stays a plan."""
    return {
        "subproblems": lambda: tuple(change(subproblem) for subproblem in subproblems),
        "known": lambda best: ((change(best.instance), best.candidate),),
    }


def _about_devices(
    subproblems: Sequence[Instance], changed: ChangedDevices, increments: Increments
) -> Iterator[Scenario]:
    members, name = changed.members, changed.text
    subject: _Subject = {"subject": name, "devices": changed.devices}
    yield Scenario(
        kind="memory",
        text=f"memory without limit on {name}",
        is_limit=True,
        **subject,
        **_changed(subproblems, lambda i: without_memory_limit(i, members)),
    )
    extra = round(increments.memory * changed.memory_bytes)
    yield Scenario(
        kind="memory",
        text=f"{_percent(increments.memory)} more memory on {name}: {format_bytes(extra)}",
        **subject,
        **_changed(subproblems, lambda i: with_memory(i, members, extra)),
    )
    yield Scenario(
        kind="speed",
        text=f"{_percent(increments.speed)} more speed of {name}",
        **subject,
        **_changed(subproblems, lambda i: with_speed(i, members, 1 + increments.speed)),
    )
    fewer = [without_device(subproblem, members[0]) for subproblem in subproblems]
    left = [subproblem for subproblem in fewer if subproblem is not None]
    if changed.is_used and not changed.must_use and left:
        what = name if len(members) == 1 else f"one {name[5:]}"
        yield Scenario(
            kind="device", text=f"without {what}", subproblems=lambda: left, **subject
        )


def _about_quality(
    subproblems: Sequence[Instance], budget: float, increments: Increments
) -> Iterator[Scenario]:
    yield Scenario(
        kind="quality",
        subject="quality",
        text="no limit on Σω",
        is_limit=True,
        **_changed(subproblems, lambda i: replace(i, omega_budget=None)),
    )
    looser = budget * (1 + increments.loss)
    yield Scenario(
        kind="quality",
        subject="quality",
        text=f"Σω up to {_percent(increments.loss)} higher, {looser:.4g}",
        **_changed(subproblems, lambda i: replace(i, omega_budget=looser)),
    )


def _about_decisions(request: PlanRequest, strategy: Strategy) -> Iterator[Scenario]:
    """Yields a scenario without each decision of the user: lowest bits and pins."""
    changes: list[tuple[str, Callable[[PlanRequest], PlanRequest]]] = []
    lowest = min(request.bits)
    if lowest > min(ALL_BITS):
        text = f"layers below {lowest} bits allowed"
        changes.append((text, lambda old: replace(old, bits=ALL_BITS)))
    if request.prefill is not None:
        text = f"prefill micro-batches not pinned to {request.prefill}"
        changes.append((text, lambda old: replace(old, prefill=None)))
    if request.decode is not None:
        text = f"decode micro-batches not pinned to {request.decode}"
        changes.append((text, lambda old: replace(old, decode=None)))
    changes += [(f"without {pin}", change) for pin, change in loosened(request)]
    for text, change in changes:
        try:
            problem = make_problem(change(request))
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
