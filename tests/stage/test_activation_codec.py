"""Hidden states in int8 on the wire."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.schema.precision import wire_token_bytes
from llmpq_jax.stage.activation_codec import pack_hidden, unpack_hidden


def slow_rounding(hidden: np.ndarray) -> np.ndarray:
    """Each token by itself, in float64."""
    rounded = np.empty(hidden.shape)
    for index in np.ndindex(hidden.shape[:-1]):
        scale = float(np.abs(hidden[index]).max()) / 127 or 1.0
        rounded[index] = np.round(hidden[index].astype(np.float64) / scale) * scale
    return rounded


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 40)),
    st.integers(0, 2**32 - 1),
    st.floats(-20, 20),
)
def test_each_token_is_rounded_by_its_own_largest_value(shape, seed, exponent):
    draw = np.random.default_rng(seed)
    hidden = (draw.standard_normal(shape) * 10.0**exponent).astype(np.float32)
    found = unpack_hidden(
        pack_hidden(jnp.asarray(hidden)), shape[-1], jnp.dtype(jnp.float32)
    )
    # A quotient near one half may be rounded to either side, a difference of one step.
    step = np.abs(hidden).max(axis=-1, keepdims=True) / 127
    expected = slow_rounding(hidden)
    differs = np.abs(np.asarray(found) - expected) > 1e-6 * np.abs(expected)
    middle = np.abs(np.abs(hidden / step) % 1 - 0.5) < 1e-4
    assert not (differs & ~middle).any()
    assert (np.abs(np.asarray(found) - hidden) <= step * 0.5001).all()


def test_a_token_of_zeros_stays_so():
    packed = pack_hidden(jnp.zeros((1, 2, 8)))
    assert not np.asarray(unpack_hidden(packed, 8, jnp.dtype(jnp.float32))).any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_sent_hidden_states_have_the_bytes_that_plans_count(dtype):
    hidden = jnp.ones((2, 3, 64), dtype)
    packed = jax.jit(pack_hidden)(hidden)
    assert packed.nbytes == 6 * wire_token_bytes(64, hidden.dtype.itemsize, wire_bits=8)
    assert hidden.nbytes == 6 * wire_token_bytes(
        64, hidden.dtype.itemsize, wire_bits=16
    )
    assert unpack_hidden(packed, 64, hidden.dtype).dtype == hidden.dtype


def test_hidden_states_that_are_not_packed_are_returned_unchanged():
    hidden = jnp.ones((2, 3, 64), jnp.bfloat16)
    assert unpack_hidden(hidden, 64, hidden.dtype) is hidden
