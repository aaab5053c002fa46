"""Interpolation: the law where it holds, else the table; monotone everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.interpolation import fit_interpolated_latency
from llmpq_jax.costmodel.latency import LAYER_FEATURES
from llmpq_jax.costmodel.monotone_table import features

PREFILL = LAYER_FEATURES["prefill"]
SIZES = [(rows, tokens) for rows in (1, 2, 5, 8) for tokens in (16, 64, 256)]

seeds = st.integers(0, 2**32 - 1)
rows = st.integers(1, 30)
tokens = st.integers(1, 600)


def law_of(seed):
    """The coefficients of a made-up device; some of them may be 0."""
    rng = np.random.default_rng(seed)
    shown = rng.random(4) < 0.7
    shown[1] = True
    return shown * rng.uniform(0.1, 1.0, 4) * [1e-3, 1e-5, 1e-8, 1e-3]


def seconds(law, points):
    return features(np.array(points, float), np.array(PREFILL, float)) @ law


def noisy(seed, spread=0.5):
    rng = np.random.default_rng(seed)
    return seconds(law_of(seed), SIZES) * rng.uniform(
        1 - spread, 1 + spread, len(SIZES)
    )


@given(seeds, rows, tokens)
def test_a_law_without_noise_is_found_and_extended(seed, b, s):
    law = law_of(seed)
    surface = fit_interpolated_latency(SIZES, seconds(law, SIZES), PREFILL)
    assert float(surface(b, s)) == pytest.approx(seconds(law, [(b, s)])[0], rel=1e-6)


@given(seeds, rows, tokens, st.integers(0, 20), st.integers(0, 300), st.data())
def test_seconds_never_fall_and_are_never_negative(seed, b, s, more_b, more_s, data):
    """With noise, with sizes that are missing, and beyond the table."""
    left_out = data.draw(st.sets(st.sampled_from(range(len(SIZES))), max_size=6))
    kept = [k for k in range(len(SIZES)) if k not in left_out]
    values = noisy(seed, spread=0.9)
    surface = fit_interpolated_latency([SIZES[k] for k in kept], values[kept], PREFILL)
    small, large = float(surface(b, s)), float(surface(b + more_b, s + more_s))
    assert 0.0 <= small <= large * (1 + 1e-9)


@given(seeds, st.sampled_from(range(len(SIZES))))
def test_a_monotone_table_is_looked_up_exactly(seed, point):
    """Values that no law gives: every step along either axis has a size of its own."""
    steps = np.random.default_rng(seed).uniform(0.1, 10.0, (4, 3))
    values = steps.cumsum(axis=0).cumsum(axis=1).ravel()
    surface = fit_interpolated_latency(SIZES, values, PREFILL)
    expected = (
        values[point]
        if surface.uses_table
        else surface.law(np.array(SIZES, float))[point]
    )
    assert float(surface(*SIZES[point])) == pytest.approx(expected, rel=1e-6)


def test_a_cliff_is_followed_where_the_law_would_miss_it():
    """As where attention's scores outgrow the processor's cache."""
    sizes = [(b, s) for b in (1, 2, 4, 8, 16) for s in (16, 32, 64, 128)]
    values = [b * s * (1.0 if b * s < 500 else 3.0) for b, s in sizes]
    surface = fit_interpolated_latency(sizes, values, PREFILL)
    assert surface.uses_table
    assert float(surface(2, 128)) == pytest.approx(256.0)
    assert float(surface(12, 128)) == pytest.approx(12 * 128 * 3.0, rel=0.01)
    assert float(surface(2, 100)) == pytest.approx(200.0, rel=0.2)


def test_noise_around_a_law_leaves_the_law():
    sizes = [(b, s) for b in (1, 2, 3, 4, 5, 6) for s in (16, 32, 48, 64)]
    signs = np.where(np.indices((6, 4)).sum(axis=0).ravel() % 2, 0.7, 1.3)
    law = np.array([0.0, 1.0, 0.0, 0.0])
    values = seconds(law, sizes) * signs
    surface = fit_interpolated_latency(sizes, values, PREFILL, noise=0.3)
    assert not surface.uses_table
    assert float(surface(3, 40)) == pytest.approx(120, rel=0.03)
    assert fit_interpolated_latency(sizes, values, PREFILL, noise=0.1).uses_table


def test_noise_against_the_order_is_taken_out_between_the_two():
    surface = fit_interpolated_latency(
        [(1,), (2,), (4,)], [1.0, 3.0, 2.0], [(1,), (0,)]
    )
    assert surface.uses_table
    high, low = float(surface(2)), float(surface(4))
    assert 2.0 < high <= low * (1 + 1e-9) < 3.0


def test_a_single_point_serves_by_the_law_alone():
    surface = fit_interpolated_latency([(4, 16)], [2.0], PREFILL)
    assert float(surface(4, 16)) == pytest.approx(2.0)
    assert 0.0 < float(surface(2, 16)) < 2.0 < float(surface(8, 16))


def test_a_size_measured_twice_counts_with_its_median():
    surface = fit_interpolated_latency(
        [(4,), (4,), (4,)], [1.0, 9.0, 2.0], [(1,), (0,)]
    )
    assert float(surface(4)) == pytest.approx(2.0)


def test_sizes_broadcast():
    surface = fit_interpolated_latency([(1, 1), (2, 2)], [1.0, 2.0], [(1, 0), (0, 0)])
    assert surface(2, np.arange(1, 4)).shape == (3,)
