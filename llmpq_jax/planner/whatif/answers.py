"""Answers: the best plan after each change, with the bound that is proven."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Incumbent, Progress, SearchResult
from llmpq_jax.planner.whatif.scenarios import Scenario, ScenarioKind
from llmpq_jax.schema.workload import MicroBatch

# Rounding of the same sum taken in another order.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The best plan found after a change, see `Scenario`; None where there is none.

    Attributes:
        before: Objective of the best plan without the change.
        before_gap: Gap that is proven of that plan.
        bound: Lower bound on every plan's objective; infinite if none exists.
        ran_out_of_time: Whether the time ended before a plan was found or ruled out.
        seconds: Seconds that the search took.
        is_interrupted: Whether Ctrl-C ended the search.
    """

    kind: ScenarioKind
    subject: str
    text: str
    devices: tuple[str, ...]
    is_limit: bool
    before: float
    before_gap: float
    objective: float | None
    bound: float
    latency_s: float | None
    omega: float | None
    micro_batch: MicroBatch | None
    num_stages: int | None
    seconds: float
    ran_out_of_time: bool
    is_interrupted: bool

    @property
    def gain(self) -> float | None:
        """Decrease of the objective; negative if it rises; None without a plan."""
        return None if self.objective is None else self.before - self.objective

    @property
    def max_gain(self) -> float:
        """Upper bound on the gain."""
        return self.before - self.bound

    @property
    def brings(self) -> bool:
        """Whether it gains more than the gap of the plan before leaves open."""
        return self.gain is not None and self.gain > self.before * self.before_gap


def answer_scenarios(
    scenarios: Iterable[Scenario],
    plan: Incumbent,
    *,
    time_limit_s: float,
    relative_gap: float,
    progress: Callable[[Scenario, Progress], None] | None = None,
) -> Iterator[Answer]:
    """Searches the best plan of one scenario after the other, until Ctrl-C ends it.

    If removing a limit gains nothing, scenarios with a little more of it are skipped. The
    first scenario changes nothing; the plan they are about need not fit.
    """
    best, before_gap = plan, 0.0
    loose: set[tuple[ScenarioKind, str]] = set()
    for scenario in scenarios:
        about = scenario.kind, scenario.subject
        if about in loose:
            continue
        result = search(
            scenario.subproblems(),
            time_limit_s=time_limit_s,
            relative_gap=relative_gap,
            known=[*scenario.known(best), *scenario.known(plan)],
            progress=None if progress is None else partial(progress, scenario),
        )
        if scenario.kind == "plan":
            before_gap = max(result.gap, _ROUNDING)
            if result.incumbent is not None:
                best = result.incumbent
        answer = _answer(scenario, result, best, before_gap)
        yield answer
        if answer.is_interrupted:
            return
        if scenario.is_limit and not answer.brings:
            loose.add(about)


def _answer(
    scenario: Scenario,
    result: SearchResult,
    best: Incumbent,
    before_gap: float,
) -> Answer:
    found = result.incumbent
    cost = None if found is None else found.cost
    return Answer(
        kind=scenario.kind,
        subject=scenario.subject,
        text=scenario.text,
        devices=scenario.devices,
        is_limit=scenario.is_limit,
        before=best.value,
        before_gap=before_gap,
        objective=None if found is None else found.value,
        bound=result.bound,
        latency_s=None if cost is None else cost.seconds.latency_s,
        omega=None if cost is None else cost.omega,
        micro_batch=None if found is None else found.instance.micro_batch,
        num_stages=None if found is None else len(found.candidate.devices),
        seconds=result.seconds,
        ran_out_of_time=result.ran_out_of_time,
        is_interrupted=result.was_interrupted,
    )
