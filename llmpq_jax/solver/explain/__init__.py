"""Why a plan is as it is: what it takes, what binds it, and what more would bring."""

from llmpq_jax.solver.explain.account import PlanAccount
from llmpq_jax.solver.explain.answers import Answer, ask
from llmpq_jax.solver.explain.given import found_plan, free_to_choose
from llmpq_jax.solver.explain.questions import More, Question, questions
from llmpq_jax.solver.explain.take_apart import account_for

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
