"""The number up to which, or from which on, something fits, by bisection."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable


def largest(lower: int, upper: int, fits: Callable[[int], bool]) -> int | None:
    """Returns the largest number that fits; smaller ones fit where a larger one does."""
    if upper < lower or not fits(lower):
        return None
    numbers = range(lower + 1, upper + 1)
    return lower + bisect_left(numbers, True, key=lambda number: not fits(number))


def smallest(upper: int, fits: Callable[[int], bool]) -> int | None:
    """Returns the smallest number from 1 that fits, found by doubling, then bisection."""
    enough = 1
    while not fits(enough):
        if enough >= upper:
            return None
        enough = min(2 * enough, upper)
    numbers = range(enough // 2 + 1, enough)
    return numbers.start + bisect_left(numbers, True, key=fits)
