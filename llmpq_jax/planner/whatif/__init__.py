"""Why a plan is as it is: what it takes, what binds it, and what more would bring."""

from llmpq_jax.planner.whatif.answers import Answer, answer_scenarios
from llmpq_jax.planner.whatif.breakdown import PlanBreakdown
from llmpq_jax.planner.whatif.from_strategy import (
    free_to_choose,
    incumbent_from_strategy,
)
from llmpq_jax.planner.whatif.scenarios import More, Scenario, list_scenarios
from llmpq_jax.planner.whatif.take_apart import break_down

__all__ = [
    "Answer",
    "More",
    "PlanBreakdown",
    "Scenario",
    "answer_scenarios",
    "break_down",
    "free_to_choose",
    "incumbent_from_strategy",
    "list_scenarios",
]
