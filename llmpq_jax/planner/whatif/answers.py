"""Answers: the best plan after each change, with the bound that is proven."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Incumbent, Progress, SearchResult
from llmpq_jax.planner.whatif.scenarios import Scenario, ScenarioKind
from llmpq_jax.schema.workload import MicroBatch

# Rounding of the same sum taken in another order.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The best plan found after a change.

    Attributes:
        kind: Kind of the scenario.
        subject: Subject of the scenario.
        text: Description of the change.
        devices: Names of the devices that are changed.
        is_limit: Whether a limit is removed altogether.
        before: Objective of the best plan without the change.
        before_gap: Gap that is proven of that plan.
        objective: Objective of the best plan found; None if there is none.
        bound: Lower bound on every plan's objective; infinite if none exists.
        latency_s: Latency of the plan found; None without one.
        omega: Σω of the plan found; None without one.
        micro_batch: Micro-batch sizes of the plan found; None without one.
        num_stages: Number of stages of the plan found; None without one.
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

    If removing a limit gains nothing, scenarios with a little more of it are skipped.

    Args:
        scenarios: Scenarios to answer; the first one changes nothing.
        plan: Plan that the scenarios are about; it need not fit.
        time_limit_s: Time limit of each search in seconds.
        relative_gap: Gap of each search at which it ends.
        progress: Function that is called after every step of a search.
    """
    best, before_gap = plan, 0.0
    loose: set[tuple[ScenarioKind, str]] = set()
    for scenario in scenarios:
        about = scenario.kind, scenario.subject
        if about in loose:
            continue
        known = [*scenario.known(best), *scenario.known(plan)]
        result = search(
            scenario.subproblems(),
            time_limit_s=time_limit_s,
            relative_gap=relative_gap,
            known=known,
            progress=None
            if progress is None
            else lambda state, scenario=scenario: progress(scenario, state),
        )
        if scenario.kind == "plan":
            before_gap = max(result.gap, _ROUNDING)
            if result.incumbent is not None:
                best = result.incumbent
        answer = _answer(scenario, result, best, before_gap, time_limit_s)
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
    time_limit_s: float,
) -> Answer:
    found = result.incumbent
    cost = None if found is None else evaluate(found.instance, found.candidate)
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
        is_interrupted=not result.is_complete and result.seconds < time_limit_s,
    )
