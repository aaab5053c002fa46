"""Bisection against counting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.diagnose.thresholds import largest, smallest

NUMBERS = st.integers(0, 300)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_the_largest_that_fits_is_the_last_when_counting(lower, upper, limit):
    expected = max((n for n in range(lower, upper + 1) if n <= limit), default=None)
    assert largest(lower, upper, lambda n: n <= limit) == expected


@given(st.integers(1, 300), NUMBERS)
def test_the_smallest_that_fits_is_the_first_when_counting(upper, limit):
    expected = min((n for n in range(1, upper + 1) if n >= limit), default=None)
    assert smallest(upper, lambda n: n >= limit) == expected
