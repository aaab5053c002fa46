"""Progress of the planner in a bar: subproblems solved, the incumbent and its bound."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from llmpq_jax.report.console import Advance, log
from llmpq_jax.units import format_seconds

if TYPE_CHECKING:
    from llmpq_jax.planner import Progress


def state_callback(advance: Advance) -> Callable[[Progress], None]:
    """Returns a callback for states of a search that advances a bar."""
    num_shown = 0

    def show(state: Progress) -> None:
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


def search_note(state: Progress) -> str:
    """Returns the best plan and its bound: "best 12.4 s, bound 12.3 s (gap 0.6 %)"."""
    if state.best == float("inf"):
        return "no plan yet"
    gap = max(0.0, 1.0 - state.bound / state.best) if state.best > 0 else 0.0
    best, bound = format_seconds(state.best), format_seconds(max(state.bound, 0.0))
    return f"best {best}, bound {bound} (gap {100 * gap:.2g} %)"
