"""Which micro-batches are tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.instance.subproblems import micro_batches


def pairs(batch, **pins):
    return {(pair.prefill, pair.decode) for pair in micro_batches(batch, **pins)}


def test_sizes_are_divisors_and_powers_of_two():
    assert {prefill for prefill, _ in pairs(12)} == {1, 2, 3, 4, 6, 8, 12}


def test_a_batch_of_32_has_36_pairs():
    assert len(micro_batches(32)) == 36


@given(st.integers(1, 60))
def test_every_pair_divides_and_none_exceeds_the_batch(batch):
    for prefill, decode in pairs(batch):
        assert max(prefill, decode) % min(prefill, decode) == 0
        assert max(prefill, decode) <= batch


def test_a_pin_leaves_what_goes_with_it():
    assert pairs(12, prefill=4) == {(4, 1), (4, 2), (4, 4), (4, 8), (4, 12)}
    assert pairs(12, decode=5) == {(1, 5), (5, 5)} - {(5, 5)}
    assert pairs(12, prefill=5, decode=10) == {(5, 10)}


def test_pins_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="expected one to be a multiple of the other"):
        micro_batches(12, prefill=4, decode=6)
