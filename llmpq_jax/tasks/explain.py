"""Takes a plan apart and asks what binds it."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.interrupts import interrupt_handled, interrupts_end_all
from llmpq_jax.planner import PlanRequest, Progress
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.whatif import (
    Answer,
    Increments,
    PlanBreakdown,
    Scenario,
    answer_scenarios,
    break_down,
    incumbent_from_strategy,
    list_scenarios,
    request_allowing,
)
from llmpq_jax.report.console import log, progress_bar, search_note
from llmpq_jax.schema.solve_request import SearchLimits
from llmpq_jax.schema.strategy import Strategy


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """What a plan takes, and the answers to what would change it.

    Attributes:
        source: "measured", or "roofline" if seconds come from data-sheet figures.
        breakdown: Memory, seconds and quality of the plan by part.
        answers: Answers in the order in which they were asked; fewer if interrupted.
    """

    source: str
    breakdown: PlanBreakdown
    answers: tuple[Answer, ...]


def explain(
    strategy: Strategy,
    request: PlanRequest,
    more: Increments,
    search: SearchLimits | None,
) -> Explanation:
    """Explains a plan; Ctrl-C ends the questions and keeps the answers so far.

    Without limits of a search nothing is asked.

    Raises:
        StrategyError: The strategy does not suit the problem.
    """
    problem = make_problem(request_allowing(request, strategy))
    plan = incumbent_from_strategy(problem, strategy)
    breakdown = break_down(problem, plan, strategy)
    answers: list[Answer] = []
    if search is not None:
        asked = list(list_scenarios(problem, strategy, plan, more))
        with progress_bar("solving again", len(asked), unit="questions") as advance:

            def on_progress(scenario: Scenario, state: Progress) -> None:
                advance(0, note=f"{scenario.text}: {search_note(state)}")

            found = answer_scenarios(
                asked,
                plan,
                time_limit_s=search.time_limit_s,
                relative_gap=search.gap,
                progress=on_progress,
            )
            try:
                # Of each question, or a search would go on with its best plan.
                with interrupts_end_all():
                    for answer in found:
                        answers.append(answer)
                        advance(1)
            except KeyboardInterrupt:
                interrupt_handled()
                log("interrupted: the answers so far are kept")
    return Explanation(
        source=problem.source, breakdown=breakdown, answers=tuple(answers)
    )
