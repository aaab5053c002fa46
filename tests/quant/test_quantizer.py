"""Laws of rounding: its error, its exact cases, and its bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.quant import QArray, dequantize, quantize, unpacked_values
from llmpq_jax.quant.qarray import with_groups_cut
from llmpq_jax.schema.precision import group_size_for, matrix_bytes
from tests.referees.quantized_product import reference_product, reference_weight

_BITS = st.sampled_from([4, 8])
_GROUPS = st.sampled_from([32, 64, 128])


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """Matrices of ragged shapes, with zero columns, tiny and huge magnitudes."""
    num_contracted = draw(st.sampled_from([1, 3, 32, 48, 64, 96, 128, 192, 256]))
    num_features = 2 * draw(st.integers(1, 9))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    magnitude = 10.0 ** draw(st.integers(-30, 30))
    weight = generator.standard_normal((num_contracted, num_features)) * magnitude
    weight[:, draw(st.integers(0, num_features - 1))] = 0.0
    return weight.astype(np.float32)


@given(weights(), _BITS, _GROUPS)
def test_error_is_at_most_half_a_scale(
    weight: np.ndarray, bits: Literal[4, 8], group_size: int
) -> None:
    quantised = quantize(jnp.asarray(weight), bits=bits, group_size=group_size)
    error = np.abs(reference_weight(quantised) - weight.astype(np.float64))
    scale = np.repeat(np.asarray(quantised.scale), quantised.group_size, axis=0)
    # Scale and quotient are rounded to float32: up to two units in the last place of
    # an integer as large as 127.
    slack = 1 + 4 * 127 * np.finfo(np.float32).eps
    assert (error <= 0.5 * scale * slack).all()


@given(weights(), _BITS, _GROUPS)
def test_arrays_have_exactly_the_bytes_planning_counts(
    weight: np.ndarray, bits: Literal[4, 8], group_size: int
) -> None:
    num_contracted, num_features = weight.shape
    quantised = quantize(jnp.asarray(weight), bits=bits, group_size=group_size)
    group = group_size_for(num_contracted, group_size)
    assert quantised.nbytes == matrix_bytes(
        num_contracted, num_features, bits=bits, group=group
    )


@given(weights(), _BITS, _GROUPS)
def test_dequantising_agrees_with_the_reference(
    weight: np.ndarray, bits: Literal[4, 8], group_size: int
) -> None:
    quantised = quantize(jnp.asarray(weight), bits=bits, group_size=group_size)
    # integer · scale is one float32 product of exact factors.
    np.testing.assert_allclose(
        dequantize(quantised), reference_weight(quantised), rtol=2**-23, atol=1e-44
    )


@given(weights(), _BITS, _GROUPS)
def test_quantising_what_was_quantised_changes_no_integer(
    weight: np.ndarray, bits: Literal[4, 8], group_size: int
) -> None:
    once = quantize(jnp.asarray(weight), bits=bits, group_size=group_size)
    twice = quantize(dequantize(once), bits=bits, group_size=group_size)
    np.testing.assert_array_equal(once.values, twice.values)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4]), _BITS)
def test_a_cut_weight_keeps_its_integers_and_its_meaning(
    seed: int, width: int, bits: Literal[4, 8]
) -> None:
    weight = np.random.default_rng(seed).standard_normal((192, 6)).astype(np.float32)
    whole = quantize(jnp.asarray(weight), bits=bits, group_size=128)
    cut = with_groups_cut(whole, width)
    np.testing.assert_array_equal(cut.values, whole.values)
    np.testing.assert_array_equal(reference_weight(cut), reference_weight(whole))
    assert cut.num_groups % width == 0


def test_nibbles_are_packed_as_the_record_says() -> None:
    weight = jnp.asarray([[7.0, -7.0, 3.0, -1.0]] * 32)
    weight = weight.at[0].set(jnp.asarray([7.0, -7.0, 7.0, -7.0]))
    quantised = quantize(weight, bits=4, group_size=32)
    assert quantised.values.dtype == jnp.uint8
    assert int(quantised.values[1, 0]) == 7 | (0x9 << 4)
    assert int(quantised.values[1, 1]) == 3 | (0xF << 4)
    np.testing.assert_array_equal(unpacked_values(quantised)[1], [7, -7, 3, -1])


def test_zero_point_and_permutation_mean_what_the_record_says() -> None:
    weight = QArray(
        values=jnp.asarray([[1, 2], [3, 4]], jnp.int8),
        scale=jnp.asarray([[0.5, 2.0]], jnp.float32),
        bits=8,
        zero_point=jnp.asarray([[1, -1]], jnp.int8),
        permutation=jnp.asarray([1, 0], jnp.int32),
    )
    # Row 0 of the file meets input 1: 0.5·(1−1), 2·(2+1).
    np.testing.assert_array_equal(reference_weight(weight), [[1.0, 10.0], [0.0, 6.0]])
    product = reference_product(np.asarray([[1.0, 10.0]]), weight)
    np.testing.assert_array_equal(product, [[1.0, 70.0]])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_group_of_zeros_gets_scale_one(bits: Literal[4, 8]) -> None:
    quantised = quantize(jnp.zeros((32, 2)), bits=bits, group_size=32)
    assert (quantised.scale == 1).all()
    assert not dequantize(quantised).any()


def test_an_odd_number_of_features_is_refused_at_4_bits() -> None:
    with pytest.raises(
        ValueError, match="odd number of features: expected an even one"
    ):
        quantize(jnp.ones((32, 3)), bits=4)


def test_rows_that_do_not_divide_cannot_be_cut() -> None:
    weight = quantize(jnp.ones((6, 2)), bits=8)
    with pytest.raises(ValueError, match="6 rows cannot be cut into 4"):
        with_groups_cut(weight, 4)


def test_permuted_rows_cannot_be_cut() -> None:
    weight = quantize(jnp.ones((6, 2)), bits=8)
    weight = replace(weight, permutation=jnp.arange(6))
    with pytest.raises(ValueError, match="permuted order cannot be cut"):
        with_groups_cut(weight, 2)


@pytest.mark.parametrize(("bits", "group_size"), [(8, 128), (4, 128), (4, 64), (4, 32)])
def test_mean_error_is_a_quarter_of_the_scale_of_the_largest(
    bits: Literal[4, 8], group_size: int
) -> None:
    weight = jax.random.normal(jax.random.key(0), (256, 64))
    quantised = quantize(weight, bits=bits, group_size=group_size)
    group = 256 if bits == 8 else group_size
    largest = np.abs(np.asarray(weight, np.float64)).reshape(-1, group, 64).max(axis=1)
    scale = largest / (127 if bits == 8 else 7)
    # Rounding errors are close to uniform on ±S/2, whose mean magnitude is S/4; the
    # largest of a group is exact, which small groups feel.
    error = float(jnp.mean(jnp.abs(dequantize(quantised) - weight)))
    assert error == pytest.approx(scale.mean() / 4, rel=0.05)
