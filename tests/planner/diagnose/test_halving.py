"""Halving against counting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.diagnose.halving import largest, smallest

NUMBERS = st.integers(0, 300)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_the_largest_that_fits_is_the_last_when_counting(least, most, limit):
    expected = max((n for n in range(least, most + 1) if n <= limit), default=None)
    assert largest(least, most, lambda n: n <= limit) == expected


@given(st.integers(1, 300), NUMBERS)
def test_the_smallest_that_fits_is_the_first_when_counting(most, limit):
    expected = min((n for n in range(1, most + 1) if n >= limit), default=None)
    assert smallest(most, lambda n: n >= limit) == expected
