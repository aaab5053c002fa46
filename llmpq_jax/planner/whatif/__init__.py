"""Why a plan is as it is: what it takes, what limits it, and what a change would gain."""

from llmpq_jax.planner.whatif.answers import Answer, answer_scenarios
from llmpq_jax.planner.whatif.breakdown import PlanBreakdown, break_down
from llmpq_jax.planner.whatif.from_strategy import (
    incumbent_from_strategy,
    request_allowing,
)
from llmpq_jax.planner.whatif.plans_around import plans_around
from llmpq_jax.planner.whatif.scenarios import Increments, Scenario, list_scenarios

__all__ = [
    "Answer",
    "Increments",
    "PlanBreakdown",
    "Scenario",
    "answer_scenarios",
    "break_down",
    "incumbent_from_strategy",
    "list_scenarios",
    "plans_around",
    "request_allowing",
]
