"""A cache of 8 bits: what is stored, what is read, and how far it is off."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.model.attention import attend
from llmpq_jax.model.cache import LayerCache
from llmpq_jax.model.positions import Context

SHAPE = (2, 9, 3, 8)


def draw(seed: int, dtype: str = "float32") -> LayerCache:
    generator = np.random.default_rng(seed)
    key, value = (
        jnp.asarray(generator.standard_normal(SHAPE, np.float32), dtype)
        for _ in range(2)
    )
    return LayerCache(key=key, value=value)


def as_numbers(block: jax.Array, scale: jax.Array | None) -> np.ndarray:
    assert scale is not None
    return np.asarray(block, np.float64) * np.asarray(scale, np.float64)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_each_head_of_a_token_is_off_by_half_a_step_at_most(seed, dtype):
    exact = draw(seed, dtype)
    rounded = exact.at(8)
    assert rounded.kv_bits == 8
    assert rounded.key.dtype == rounded.value.dtype == jnp.int8
    for block, scale, before in (
        (rounded.key, rounded.key_scale, exact.key),
        (rounded.value, rounded.value_scale, exact.value),
    ):
        assert scale is not None
        assert scale.shape == (*SHAPE[:-1], 1)
        wide = np.asarray(before, np.float64)
        error = np.abs(as_numbers(block, scale) - wide)
        # The quotient, up to 127, is off by a few roundings before it is rounded.
        half = 0.5 + 127 * 4 * 2.0**-24
        assert (error <= half * np.asarray(scale)).all()
        largest = np.abs(wide).max(axis=-1, keepdims=True)
        np.testing.assert_allclose(np.asarray(scale), largest / 127, rtol=1e-6)


def test_rows_and_tokens_are_stored_as_they_are_rounded():
    empty = jax.tree.map(jnp.zeros_like, draw(0).at(8))
    new = draw(1)
    whole = empty.with_rows(new, jnp.int32(0))
    for found, expected in zip(whole, new.at(8), strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    token = jax.tree.map(lambda block: block[:, 4:5], new)
    slot_B = jnp.asarray([7, 0])
    stored = empty.with_tokens(token, slot_B)
    for found, expected in zip(stored, token.at(8), strict=True):
        for row, slot in enumerate(np.asarray(slot_B)):
            np.testing.assert_array_equal(
                np.asarray(found)[row, slot], np.asarray(expected)[row, 0]
            )


@pytest.mark.parametrize("num_tokens", [1, 4])
def test_attention_over_8_bits_is_attention_over_the_dequantised_cache(num_tokens):
    rounded = draw(2).at(8)
    plain = LayerCache(
        key=jnp.asarray(as_numbers(rounded.key, rounded.key_scale), jnp.float32),
        value=jnp.asarray(as_numbers(rounded.value, rounded.value_scale), jnp.float32),
    )
    generator = np.random.default_rng(3)
    query = jnp.asarray(generator.standard_normal((2, num_tokens, 6, 8), np.float32))
    positions = np.arange(9 - num_tokens, 9)
    context = Context(
        position_BT=jnp.asarray(np.broadcast_to(positions, (2, num_tokens))),
        slot_S=jnp.arange(9),
        cosine_BTH=None,
        sine_BTH=None,
    )
    mixes = [
        attend(query, memory, context, window=None, slopes_N=None)
        for memory in (rounded, plain)
    ]
    np.testing.assert_allclose(mixes[0], mixes[1], atol=2e-6)
