from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    ALL_BITS,
    GROUP_SIZES,
    check_activations,
    group_size_for,
    matrix_bytes,
)

contracted = st.integers(min_value=1, max_value=512).map(lambda n: 8 * n)
features = st.integers(min_value=1, max_value=512).map(lambda n: 2 * n)
requested = st.sampled_from(GROUP_SIZES)


@given(contracted, requested)
def test_groups_divide_the_axis_and_are_the_largest_that_do(num_contracted, size):
    group = group_size_for(num_contracted, size)
    assert num_contracted % group == 0
    fitting = [n for n in GROUP_SIZES if n <= size and num_contracted % n == 0]
    assert group == max(fitting, default=num_contracted)


@given(contracted, features, requested)
def test_bytes_are_those_of_the_arrays_that_hold_the_weight(rows, columns, size):
    group = group_size_for(rows, size)
    arrays = {
        32: [np.zeros((rows, columns), np.float32)],
        16: [np.zeros((rows, columns), np.float16)],
        8: [np.zeros((rows, columns), np.int8), np.zeros(columns, np.float32)],
        4: [
            np.zeros((rows, columns // 2), np.uint8),
            np.zeros((rows // group, columns), np.float32),
        ],
    }
    for bits in ALL_BITS:
        expected = sum(array.nbytes for array in arrays[bits])
        assert matrix_bytes(rows, columns, bits=bits, group=group) == expected


@given(st.integers(min_value=1, max_value=64).map(lambda n: 32 * n), features)
def test_fewer_bits_are_fewer_bytes(rows, columns):
    group = group_size_for(rows, 128)
    sizes = [matrix_bytes(rows, columns, bits=bits, group=group) for bits in ALL_BITS]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(ALL_BITS)


def test_weights_of_32_bits_want_float32_activations():
    check_activations("float32", (32, 8))
    check_activations("bfloat16", (16, 8))
    with pytest.raises(ValueError, match="activations in bfloat16: expected float32"):
        check_activations("bfloat16", (16, 32))


def test_activations_have_the_bytes_of_their_type():
    assert ACTIVATION_BYTES["float32"] == np.dtype(np.float32).itemsize
    assert ACTIVATION_BYTES["float16"] == np.dtype(np.float16).itemsize
    assert ACTIVATION_BYTES["bfloat16"] == 2
