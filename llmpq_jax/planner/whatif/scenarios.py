"""What is asked of a plan: how much faster it would be with a little more of something.

A limit is first left out altogether: what that brings bounds what any more of it could
bring, and where it brings nothing, the limit does not bind.
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
from llmpq_jax.planner.whatif.changes import (
    with_memory,
    with_speed,
    without_device,
    without_memory_limit,
)
from llmpq_jax.planner.whatif.from_strategy import incumbent_from_strategy
from llmpq_jax.planner.whatif.groups import Group, find_groups
from llmpq_jax.schema.precision import ALL_BITS
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

ScenarioKind = Literal[
    "plan", "memory", "speed", "quality", "device", "micro-batches", "decision"
]
Known = Sequence[tuple[Instance, Candidate]]


@dataclass(frozen=True, kw_only=True, slots=True)
class More:
    """How little more is asked about, as shares: 0.05 is 5 %."""

    memory: float = 0.05
    speed: float = 0.10
    loss: float = 0.05


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Scenario:
    """One change, after which the plan is sought anew.

    Attributes:
        kind: Of what.
        subject: Which device, pin or limit; the same in all questions about it.
        text: The change.
        devices: Names of the devices it is about, those alike included.
        is_limit: A limit is left out altogether.
        subproblems: Makes the changed cases.
        known: Plans of changed cases, of the best plan without the change.
    """

    kind: ScenarioKind
    subject: str
    text: str
    devices: tuple[str, ...] = ()
    is_limit: bool = False
    subproblems: Callable[[], Sequence[Instance]]
    known: Callable[[Incumbent], Known] = lambda _: ()


class _How(TypedDict):
    subproblems: Callable[[], Sequence[Instance]]
    known: Callable[[Incumbent], Known]


def list_scenarios(
    problem: Problem, strategy: Strategy, plan: Incumbent, more: More
) -> Iterator[Scenario]:
    """Yields what is worth asking of a plan; first, what is best with no change at all."""
    request = problem.request
    subproblems = all_subproblems(problem, omega_budget=request.omega_budget)
    if all(
        subproblem.micro_batch != plan.instance.micro_batch
        for subproblem in subproblems
    ):
        # A person may have chosen a pair that a search would not try.
        subproblems = (*subproblems, plan.instance)
    same = _changed(subproblems, lambda instance: instance)
    yield Scenario(kind="plan", subject="the plan", text="nothing changed", **same)
    for group in find_groups(problem, plan):
        yield from _about_devices(subproblems, group, more)
    if request.omega_budget is not None:
        yield from _about_quality(subproblems, request.omega_budget, more)
    own = plan.instance.micro_batch
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
) -> _How:
    """The same change in all cases, in which a plan stays a plan."""
    return {
        "subproblems": lambda: tuple(change(subproblem) for subproblem in subproblems),
        "known": lambda best: ((change(best.instance), best.candidate),),
    }


def _about_devices(
    subproblems: Sequence[Instance], group: Group, more: More
) -> Iterator[Scenario]:
    members = group.members
    about: _About = {"subject": group.text, "devices": group.devices}
    yield Scenario(
        kind="memory",
        text=f"memory without limit on {group.text}",
        is_limit=True,
        **about,
        **_changed(
            subproblems, lambda subproblem: without_memory_limit(subproblem, members)
        ),
    )
    extra = round(more.memory * group.memory_bytes)
    yield Scenario(
        kind="memory",
        text=f"{_percent(more.memory)} more memory on {group.text}: {format_bytes(extra)}",
        **about,
        **_changed(
            subproblems, lambda subproblem: with_memory(subproblem, members, extra)
        ),
    )
    yield Scenario(
        kind="speed",
        text=f"{_percent(more.speed)} more speed of {group.text}",
        **about,
        **_changed(
            subproblems,
            lambda subproblem: with_speed(subproblem, members, 1 + more.speed),
        ),
    )
    fewer = [without_device(subproblem, members[0]) for subproblem in subproblems]
    left = [subproblem for subproblem in fewer if subproblem is not None]
    if group.is_used and not group.must_use and left:
        what = group.text if len(members) == 1 else f"one {group.text[5:]}"
        yield Scenario(
            kind="device", text=f"without {what}", subproblems=lambda: left, **about
        )


class _About(TypedDict):
    subject: str
    devices: tuple[str, ...]


def _about_quality(
    subproblems: Sequence[Instance], budget: float, more: More
) -> Iterator[Scenario]:
    yield Scenario(
        kind="quality",
        subject="quality",
        text="no limit on Σω",
        is_limit=True,
        **_changed(
            subproblems, lambda subproblem: replace(subproblem, omega_budget=None)
        ),
    )
    looser = budget * (1 + more.loss)
    yield Scenario(
        kind="quality",
        subject="quality",
        text=f"Σω up to {_percent(more.loss)} higher, {looser:.4g}",
        **_changed(
            subproblems, lambda subproblem: replace(subproblem, omega_budget=looser)
        ),
    )


def _about_decisions(request: PlanRequest, strategy: Strategy) -> Iterator[Scenario]:
    """Floors and pins: what a person has decided, one by one undone."""
    changes: list[tuple[str, Callable[[PlanRequest], PlanRequest]]] = []
    least = min(request.bits)
    if least > min(ALL_BITS):
        text = f"layers below {least} bits allowed"
        changes.append((text, lambda asked: replace(asked, bits=ALL_BITS)))
    if request.prefill is not None:
        text = f"prefill micro-batches not pinned to {request.prefill}"
        changes.append((text, lambda asked: replace(asked, prefill=None)))
    if request.decode is not None:
        text = f"decode micro-batches not pinned to {request.decode}"
        changes.append((text, lambda asked: replace(asked, decode=None)))
    changes += [(f"without {pin}", change) for pin, change in loosened(request)]
    for text, change in changes:
        try:
            problem = make_problem(change(request))
            own = incumbent_from_strategy(problem, strategy)
        except SpecError:
            # Precisions below the floor were not measured, for example.
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
