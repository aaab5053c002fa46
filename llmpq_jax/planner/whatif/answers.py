"""Answers: the plan sought anew after each change, with what is proven of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Incumbent, Progress, SearchResult
from llmpq_jax.planner.whatif.scenarios import Scenario, ScenarioKind
from llmpq_jax.schema.workload import MicroBatch

# Of the same sum taken in another order.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The best plan found after a change.

    Attributes:
        kind: Of the question.
        subject: Likewise.
        text: The change.
        devices: Names of the devices it is about.
        is_limit: A limit was left out altogether.
        before: Objective of the best plan without the change.
        before_gap: Proven of that one.
        objective: Of the best plan found; absent where there is none.
        bound: No plan is below it; infinite where none exists.
        latency_s: Of the plan; absent without one.
        omega: Σω of it, likewise.
        micro_batch: Of it, likewise.
        num_stages: Of it, likewise.
        seconds: The search took.
        is_interrupted: A person ended the search.
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
        """What the change brings; negative where it costs."""
        return None if self.objective is None else self.before - self.objective

    @property
    def max_gain(self) -> float:
        """What it can bring at most, as far as is proven."""
        return self.before - self.bound

    @property
    def brings(self) -> bool:
        """Whether it brings more than the gap of the plan before leaves open."""
        return self.gain is not None and self.gain > self.before * self.before_gap


def answer_scenarios(
    asked: Iterable[Scenario],
    plan: Incumbent,
    *,
    time_limit_s: float,
    relative_gap: float,
    progress: Callable[[Scenario, Progress], None] | None = None,
) -> Iterator[Answer]:
    """Answers questions one after the other, until a person ends it.

    Where leaving a limit out brings nothing, a little more of it is not asked about.

    Args:
        asked: What is asked; the first one changes nothing.
        plan: That is asked about; it need not fit.
        time_limit_s: Of each search.
        relative_gap: Of each search, at which a plan counts as the best.
        progress: Called after every step of a search.
    """
    best, before_gap = plan, 0.0
    loose: set[tuple[ScenarioKind, str]] = set()
    for scenario in asked:
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
            if result.found is not None:
                best = result.found
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
    found = result.found
    evaluation = None if found is None else evaluate(found.instance, found.candidate)
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
        latency_s=None if evaluation is None else evaluation.seconds.latency_s,
        omega=None if evaluation is None else evaluation.omega,
        micro_batch=None if found is None else found.instance.micro_batch,
        num_stages=None if found is None else len(found.candidate.devices),
        seconds=result.seconds,
        is_interrupted=not result.is_complete and result.seconds < time_limit_s,
    )
