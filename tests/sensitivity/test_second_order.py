"""The formulas, compared with loops in float64 and with random errors."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.sensitivity.moments import Moments
from llmpq_jax.sensitivity.second_order import (
    curvature_loss,
    output_variance,
    variance_loss,
)

_SEEDS = st.integers(0, 2**32 - 1)
ROWS, FEATURES, GROUP = 8, 3, 4


def _drawn(seed: int) -> tuple[np.random.Generator, Moments, np.ndarray]:
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((50, ROWS)) + 0.3
    weight = generator.standard_normal((ROWS, FEATURES))
    moments = Moments(
        weight=jnp.asarray(weight, jnp.float32),
        inputs=jnp.asarray(inputs.T @ inputs / 50, jnp.float32),
        outputs=jnp.asarray(generator.uniform(0, 2, FEATURES), jnp.float32),
    )
    return generator, moments, inputs


@given(_SEEDS)
def test_curvature_is_half_the_mean_square_of_a_change_s_effect_on_the_loss(seed):
    generator, moments, inputs = _drawn(seed)
    error = generator.standard_normal((ROWS, FEATURES))
    expected = 0.0
    for token in inputs:
        for feature in range(FEATURES):
            change = token @ error[:, feature]
            expected += 0.5 * float(moments.outputs[feature]) * change**2 / len(inputs)
    found = curvature_loss(moments, jnp.asarray(error, jnp.float32))
    assert float(found) == pytest.approx(expected, rel=1e-4)


@given(_SEEDS)
def test_variance_is_the_mean_loss_of_random_errors(seed):
    """With equally distributed input features, only their mean square matters."""
    generator, moments, _ = _drawn(seed)
    isotropic = Moments(
        weight=moments.weight,
        inputs=jnp.eye(ROWS) * 1.7,
        outputs=moments.outputs,
    )
    scale = generator.uniform(0.1, 1.0, (ROWS // GROUP, FEATURES))
    steps = np.repeat(scale, GROUP, axis=0)
    drawn = generator.uniform(-0.5, 0.5, (4000, ROWS, FEATURES)) * steps
    costs = 0.5 * np.einsum("f,ncf->n", np.asarray(isotropic.outputs), 1.7 * drawn**2)
    found = float(variance_loss(isotropic, jnp.asarray(scale, jnp.float32)))
    standard_error = costs.std() / np.sqrt(len(costs))
    assert found == pytest.approx(costs.mean(), abs=5 * standard_error)


@given(_SEEDS)
def test_assumptions_differ_by_their_factors_of_the_inputs_moments(seed):
    generator, moments, inputs = _drawn(seed)
    scale = jnp.asarray(generator.uniform(0.1, 1.0, (2, FEATURES)), jnp.float32)
    mean_square = (inputs**2).mean()
    # Over a token's features, averaged over tokens.
    variance = inputs.var(axis=1).mean()
    values = {
        "expected": mean_square / 12,
        "bound": variance / 4,
        "stochastic": mean_square / 6,
    }
    unit = GROUP * (np.asarray(scale, np.float64) ** 2).sum(axis=0)
    outputs = np.asarray(moments.outputs, np.float64)
    for assumption, value in values.items():
        loss = variance_loss(moments, scale, assumption=assumption)  # pyright: ignore[reportArgumentType]
        plain = output_variance(moments, scale, assumption=assumption)  # pyright: ignore[reportArgumentType]
        assert float(loss) == pytest.approx(0.5 * value * (outputs @ unit), rel=1e-4)
        assert float(plain) == pytest.approx(value * unit.sum(), rel=1e-4)
