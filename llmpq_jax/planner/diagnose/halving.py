"""The number up to which, or from which on, something holds: by halving."""

from __future__ import annotations

from collections.abc import Callable


def largest(least: int, most: int, fits: Callable[[int], bool]) -> int | None:
    """Returns the largest number that fits; smaller ones fit where a larger one does."""
    if most < least or not fits(least):
        return None
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least


def smallest(most: int, fits: Callable[[int], bool]) -> int | None:
    """Returns the smallest number from 1 that fits, found by doubling, then halving."""
    enough = 1
    while not fits(enough):
        if enough >= most:
            return None
        enough = min(2 * enough, most)
    lacking = enough // 2
    while enough - lacking > 1:
        middle = (lacking + enough) // 2
        lacking, enough = (lacking, middle) if fits(middle) else (middle, enough)
    return enough
