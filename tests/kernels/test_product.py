"""The product at every precision against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.kernels import multiply
from llmpq_jax.quant import quantize
from tests.referees.quantized_product import reference_product


@st.composite
def factors(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states of one to three axes and a weight they meet."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_contracted = draw(st.sampled_from([32, 48, 64, 192]))
    rows = draw(st.sampled_from([(1,), (3,), (2, 5), (1, 1)]))
    hidden = generator.standard_normal((*rows, num_contracted)).astype(np.float32)
    weight = generator.standard_normal((num_contracted, 2 * draw(st.integers(1, 8))))
    return hidden, weight.astype(np.float32)


def _tolerance(hidden: np.ndarray, weight: np.ndarray, unit: float) -> np.ndarray:
    """Bounds a dot product's rounding: C units of the sum of magnitudes (Higham, 3.1)."""
    num_contracted = weight.shape[0]
    return (num_contracted + 4) * unit * (np.abs(hidden) @ np.abs(weight)) + 1e-30


@given(factors(), st.sampled_from([4, 8]), st.sampled_from([32, 64, 128]))
def test_quantised_product_agrees_with_float64(
    pair: tuple[np.ndarray, np.ndarray], bits: Literal[4, 8], group_size: int
) -> None:
    hidden, weight = pair
    quantised = quantize(jnp.asarray(weight), bits=bits, group_size=group_size)
    expected = reference_product(hidden, quantised)
    found = np.asarray(multiply(jnp.asarray(hidden), quantised), np.float64)
    bound = _tolerance(hidden, weight * 1.2, float(np.finfo(np.float32).eps))
    assert (np.abs(found - expected) <= bound).all()


@given(factors(), st.sampled_from([4, 8]))
def test_bfloat16_product_agrees_within_its_own_rounding(
    pair: tuple[np.ndarray, np.ndarray], bits: Literal[4, 8]
) -> None:
    hidden, weight = pair
    narrow = jnp.asarray(hidden, jnp.bfloat16)
    quantised = quantize(jnp.asarray(weight), bits=bits, group_size=64)
    found = multiply(narrow, quantised)
    assert found.dtype == jnp.bfloat16
    wide = np.asarray(narrow, np.float64)
    expected = reference_product(wide, quantised)
    # The weight and the result are each rounded once to 8 significant bits; the sum
    # itself is kept in float32.
    bound = 2.0**-7 * (np.abs(wide) @ np.abs(weight * 1.2))
    assert (np.abs(np.asarray(found, np.float64) - expected) <= bound).all()


@given(factors())
def test_sixteen_bits_are_the_plain_product(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    hidden, weight = pair
    narrow = jnp.asarray(weight, jnp.bfloat16)
    expected = hidden.astype(np.float64) @ np.asarray(narrow, np.float64)
    found = np.asarray(multiply(jnp.asarray(hidden), narrow), np.float64)
    bound = _tolerance(
        hidden, np.asarray(narrow, np.float64), float(np.finfo(np.float32).eps)
    )
    assert (np.abs(found - expected) <= bound).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_point_and_permutation_are_served(bits: Literal[4, 8]) -> None:
    generator = np.random.default_rng(0)
    hidden = generator.standard_normal((3, 64)).astype(np.float32)
    weight = generator.standard_normal((64, 6)).astype(np.float32)
    quantised = quantize(jnp.asarray(weight), bits=bits, group_size=32)
    shape = quantised.scale.shape
    quantised = replace(
        quantised,
        zero_point=jnp.asarray(generator.integers(-3, 4, shape), jnp.int8),
        permutation=jnp.asarray(generator.permutation(64), jnp.int32),
    )
    found = multiply(jnp.asarray(hidden), quantised)
    np.testing.assert_allclose(
        found, reference_product(hidden, quantised), rtol=1e-4, atol=1e-4
    )
