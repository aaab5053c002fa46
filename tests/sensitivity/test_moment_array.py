"""Moments as gradients, against sums written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.kernels import WeightMatrix, multiply
from llmpq_jax.sensitivity.moment_array import with_moment_slots

_SEEDS = st.integers(0, 2**32 - 1)


def _drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    rows, contracted, features = generator.permutation([1, 3, 4])
    hidden = generator.standard_normal((2, rows, contracted), np.float32)
    return hidden, generator.standard_normal((contracted, features), np.float32)


@given(_SEEDS)
def test_a_matrix_with_slots_multiplies_and_has_gradients_like_any_other(seed):
    hidden, matrix = _drawn(seed)
    assert isinstance(with_moment_slots(jnp.asarray(matrix)), WeightMatrix)

    def loss(hidden, weight):
        return jnp.sum(jnp.sin(multiply(hidden, weight)))

    bare = jax.value_and_grad(loss)(jnp.asarray(hidden), jnp.asarray(matrix))
    slotted = with_moment_slots(jnp.asarray(matrix))
    seen = jax.value_and_grad(loss)(jnp.asarray(hidden), slotted)
    np.testing.assert_allclose(seen[0], bare[0], rtol=1e-5)
    np.testing.assert_allclose(seen[1], bare[1], rtol=1e-5, atol=1e-6)


@given(_SEEDS)
def test_the_slots_gradients_are_sums_over_tokens(seed):
    hidden, matrix = _drawn(seed)

    def loss(weight):
        return jnp.sum(jnp.sin(multiply(jnp.asarray(hidden), weight)))

    slots = jax.grad(loss)(with_moment_slots(jnp.asarray(matrix)))
    inputs = np.zeros((hidden.shape[-1],) * 2)
    outputs = np.zeros(matrix.shape[1])
    for token in hidden.reshape(-1, hidden.shape[-1]).astype(np.float64):
        inputs += np.outer(token, token)
        outputs += np.cos(token @ matrix) ** 2
    np.testing.assert_allclose(slots.input_slot, inputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slots.output_slot, outputs, rtol=1e-4, atol=1e-5)
    assert not slots.matrix.any()
