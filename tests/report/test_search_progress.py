"""The planner's bar shows the best plan so far and its bound."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.report.search_progress import search_note, state_callback


@dataclass(frozen=True)
class State:
    num_done: int
    best: float
    bound: float = 1.98
    num_subproblems: int = 4


def test_the_best_plan_and_its_bound_are_shown():
    assert search_note(State(0, 2.0)) == "best 2 s, bound 1.98 s (gap 1 %)"
    assert search_note(State(0, float("inf"))) == "no plan yet"


def test_a_subproblem_is_counted_once():
    moves = []

    def advance(count, total=None, note=None):
        moves.append((count, total, note))

    show = state_callback(advance)
    for done in (1, 1, 3, 2):
        show(State(done, float("inf")))
    assert moves == [(move, 4, "no plan yet") for move in (1, 0, 2, 0)]
