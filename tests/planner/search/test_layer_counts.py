"""The least losses of runs of layers, against every assignment of precisions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.search.layer_counts import layer_counts


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1), st.booleans())
def test_a_loss_is_the_least_of_all_assignments(num_layers, num_bits, seed, is_uniform):
    rng = np.random.default_rng(seed)
    omega = rng.random((1 if is_uniform else num_layers, num_bits))
    omega = np.broadcast_to(omega, (num_layers, num_bits)).copy()
    tables = layer_counts(omega, max_length=num_layers)
    assert tables.is_uniform == bool((omega == omega[0]).all())
    assert len(np.unique(tables.counts, axis=0)) == len(tables.counts)
    for index, counts in enumerate(tables.counts):
        length = int(counts.sum())
        for first in range(num_layers - length + 1):
            lowest = min(
                sum(omega[first + layer, b] for layer, b in enumerate(bits))
                for bits in product(range(num_bits), repeat=length)
                if all(bits.count(b) == counts[b] for b in range(num_bits))
            )
            assert tables.loss(first, index) == pytest.approx(lowest, rel=1e-12)


def test_longer_runs_are_not_in_the_tables():
    tables = layer_counts(np.zeros((4, 2)), max_length=2)
    assert tables.max_length == 2
    assert tables.counts.sum(axis=1).max() == 2
