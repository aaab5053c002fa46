"""How far the planner is, in a bar: cases settled, the best plan and its bound."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Protocol

from llmpq_jax.report.console import Advance, tell
from llmpq_jax.units import format_seconds


class SearchState(Protocol):
    """What of a search is shown."""

    @property
    def num_done(self) -> int:
        """Cases settled."""
        ...

    @property
    def num_subproblems(self) -> int:
        """Of so many."""
        ...

    @property
    def best(self) -> float:
        """The incumbent's objective; infinite while there is none."""
        ...

    @property
    def bound(self) -> float:
        """Of all cases."""
        ...


def search_progress(advance: Advance) -> Callable[[SearchState], None]:
    """Returns what takes the states of a search and moves a bar on."""
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


def note_teller(advance: Advance) -> Callable[[str], None]:
    """Returns what shows remarks in a bar, or a line each where there is no terminal."""

    def tell_note(note: str) -> None:
        if sys.stderr.isatty():
            advance(0, note=note)
        else:
            tell(note)

    return tell_note


def search_note(state: SearchState) -> str:
    """Says the best plan and its bound: "best 12.4 s, bound 12.3 s (gap 0.6 %)"."""
    if state.best == float("inf"):
        return "no plan yet"
    gap = max(0.0, 1.0 - state.bound / state.best) if state.best > 0 else 0.0
    best, bound = format_seconds(state.best), format_seconds(max(state.bound, 0.0))
    return f"best {best}, bound {bound} (gap {100 * gap:.2g} %)"
