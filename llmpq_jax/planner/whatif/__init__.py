"""Why a plan is as it is: what it takes, what binds it, and what more would bring."""

from llmpq_jax.planner.whatif.answers import Answer, ask
from llmpq_jax.planner.whatif.breakdown import PlanAccount
from llmpq_jax.planner.whatif.from_strategy import found_plan, free_to_choose
from llmpq_jax.planner.whatif.scenarios import More, Question, questions
from llmpq_jax.planner.whatif.take_apart import account_for

__all__ = [
    "Answer",
    "More",
    "PlanAccount",
    "Question",
    "account_for",
    "ask",
    "found_plan",
    "free_to_choose",
    "questions",
]
