"""The end of a search's time, which is noticed where time is spent."""

from __future__ import annotations

from collections.abc import Callable

# Called in every loop that may take seconds; raises OutOfTimeError once no time is left.
CheckTime = Callable[[], None]


class OutOfTimeError(Exception):
    """The time limit ended a step of the search, which then proves nothing."""


def unlimited() -> None:
    """Checks nothing: for steps that are taken whatever the time."""
