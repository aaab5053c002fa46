"""Progress of the planner in a bar: subproblems solved, the incumbent and its bound."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from llmpq_jax.report.console import Advance, log
from llmpq_jax.units import format_seconds


class SearchState(Protocol):
    """The state of a search, as far as it is shown."""

    @property
    def num_done(self) -> int:
        """Number of subproblems solved or pruned."""
        ...

    @property
    def num_subproblems(self) -> int:
        """Number of subproblems in all."""
        ...

    @property
    def best(self) -> float:
        """Objective of the incumbent; infinite while there is none."""
        ...

    @property
    def bound(self) -> float:
        """Lower bound of the objective over all subproblems."""
        ...


def state_callback(advance: Advance) -> Callable[[SearchState], None]:
    """Returns a callback for states of a search that advances a bar."""
    num_shown = 0

    def show(state: SearchState) -> None:
        nonlocal num_shown
        advance(
            max(0, state.num_done - num_shown),
            state.num_subproblems,
            search_note(state),
        )
        num_shown = max(num_shown, state.num_done)

    return show


def note_callback(advance: Advance) -> Callable[[str], None]:
    """Returns a callback that shows notes in a bar, or as lines where there is no terminal."""

    def show_note(note: str) -> None:
        if sys.stderr.isatty():
            advance(0, note=note)
        else:
            log(note)

    return show_note


def search_note(state: SearchState) -> str:
    """Returns the best plan and its bound: "best 12.4 s, bound 12.3 s (gap 0.6 %)"."""
    if state.best == float("inf"):
        return "no plan yet"
    gap = max(0.0, 1.0 - state.bound / state.best) if state.best > 0 else 0.0
    best, bound = format_seconds(state.best), format_seconds(max(state.bound, 0.0))
    return f"best {best}, bound {bound} (gap {100 * gap:.2g} %)"
