"""Tables: exact where measured, monotone and never negative everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.latency import LAYER_FEATURES
from llmpq_jax.costmodel.monotone_table import features, fit_table

PREFILL = LAYER_FEATURES["prefill"]
SIZES = [(rows, tokens) for rows in (1, 2, 8) for tokens in (16, 64, 256)]

seeds = st.integers(0, 2**32 - 1)
rows = st.integers(1, 100)
tokens = st.integers(1, 1000)


def noisy(seed, *, spread):
    """Seconds of a made-up device, with noise."""
    rng = np.random.default_rng(seed)
    truth = features(np.array(SIZES, float), np.array(PREFILL)) @ (
        rng.random(4) * [1e-3, 1e-5, 1e-8, 1e-3]
    )
    return truth * rng.uniform(1 - spread, 1 + spread, len(SIZES))


@given(seeds, st.sampled_from(range(len(SIZES))))
def test_a_measured_point_is_looked_up(seed, point):
    values = noisy(seed, spread=0.5)
    table = fit_table(SIZES, values, PREFILL)
    assert table(*SIZES[point]) == values[point]


@given(seeds, rows, tokens, st.integers(0, 100), st.integers(0, 1000))
def test_a_table_of_monotone_values_is_monotone(seed, b, s, more_b, more_s):
    table = fit_table(SIZES, noisy(seed, spread=0.0), PREFILL)
    assert 0 <= table(b, s) <= table(b + more_b, s + more_s) * (1 + 1e-12)


@given(seeds, rows, tokens)
def test_noise_makes_no_time_negative(seed, b, s):
    assert fit_table(SIZES, noisy(seed, spread=0.9), PREFILL)(b, s) >= 0


@given(seeds, rows, tokens)
def test_the_physical_law_is_found_and_extended(seed, b, s):
    """Without noise the fit is the law itself, also where nothing was measured."""
    rng = np.random.default_rng(seed)
    law = rng.uniform(0.5, 1.0, 4) * [1e-3, 1e-5, 1e-8, 1e-3]

    def seconds(points):
        return features(np.array(points, float), np.array(PREFILL)) @ law

    table = fit_table(SIZES, seconds(SIZES), PREFILL)
    assert table(b, s) == pytest.approx(seconds([(b, s)])[0], rel=1e-6)


@given(seeds, rows, tokens, st.sampled_from(range(len(SIZES))))
def test_an_upper_table_is_never_below_a_smaller_measurement(seed, b, s, point):
    values = noisy(seed, spread=0.5)
    table = fit_table(SIZES, values, PREFILL, is_upper=True)
    small_b, small_s = SIZES[point]
    fitted = features(np.array([SIZES[point]], float), np.array(PREFILL))
    assert fitted @ table.coefficients >= values[point]
    if (b, s) not in SIZES:
        assert table(small_b + b, small_s + s) >= values[point]


def test_the_value_is_between_those_of_two_measurements():
    table = fit_table([(1,), (4,)], [1.0, 5.0], [(1,), (0,)])
    assert 1.0 < table(2) < 5.0


def test_a_size_measured_twice_counts_with_its_median_or_its_maximum():
    sizes, values = [(4,), (4,), (4,)], [1.0, 9.0, 2.0]
    assert fit_table(sizes, values, [(0,)])(4) == 2.0
    assert fit_table(sizes, values, [(0,)], is_upper=True)(4) == 9.0


def test_measurements_of_zero_are_predicted_as_zero():
    assert fit_table([(1,), (4,)], [0.0, 0.0], [(1,), (0,)], is_upper=True)(9) == 0.0


def test_an_upper_table_of_many_zeros_still_covers_the_rest():
    table = fit_table([(1,), (2,), (4,)], [0.0, 0.0, 8.0], [(1,), (0,)], is_upper=True)
    assert table(5) >= 8.0


def test_sizes_broadcast():
    table = fit_table([(1, 1), (2, 2)], [1.0, 2.0], [(1, 0), (0, 0)])
    assert table(2, np.arange(1, 4)).shape == (3,)
