"""Scales learned by gradient steps on the error of a weight's outputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

_NUM_STEPS = 200
_RATE = 0.005


@partial(jax.jit, static_argnames=("largest",))
def learned_scales(
    weight_CF: Float[Array, "C F"],
    scale_GF: Float[Array, "G F"],
    moment_CC: Float[Array, "C C"],
    *,
    largest: int,
) -> Float[Array, "G F"]:
    """Returns scales with a smaller tr(ΔWᵀ·H·ΔW) than the given ones, or these.

    H = E[x·xᵀ] is the second moment of the inputs. Adam changes the scales' logarithms;
    the derivative of a rounded weight by its scale is its integer, as if that were
    constant (a straight-through estimate). Each feature keeps the best scales that were
    found.
    """
    num_groups, num_features = scale_GF.shape
    grouped = weight_CF.reshape(num_groups, -1, num_features)
    squares_F = jnp.einsum("CF,CF->F", weight_CF, moment_CC @ weight_CF)
    unit_F = jnp.maximum(squares_F, jnp.finfo(jnp.float32).tiny)

    def error_F(move_GF: Array) -> Array:
        scale = (scale_GF * jnp.exp(move_GF))[:, None]
        integers = jnp.clip(jnp.round(grouped / scale), -largest, largest)
        served = jax.lax.stop_gradient(integers) * scale
        error_CF = (served - grouped).reshape(weight_CF.shape)
        return jnp.einsum("CF,CF->F", error_CF, moment_CC @ error_CF) / unit_F

    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, _NUM_STEPS))

    def step(state: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        move, memory, best, best_F = state
        error, gradient = jax.value_and_grad(
            lambda move: (lambda each: (each.sum(), each))(error_F(move)), has_aux=True
        )(move)
        is_less = error[1] < best_F
        best = jnp.where(is_less[None], move, best)
        best_F = jnp.minimum(error[1], best_F)
        # optax counts steps in integers and multiplies floats with them.
        with jax.numpy_dtype_promotion("standard"):
            update, memory = optimizer.update(gradient, memory)
        return (optax.apply_updates(move, update), memory, best, best_F), None

    still = jnp.zeros_like(scale_GF)
    start: tuple[Any, ...] = (
        still,
        optimizer.init(still),
        still,
        jnp.full(num_features, jnp.inf),
    )
    (_, _, best, _), _ = jax.lax.scan(step, start, None, length=_NUM_STEPS)
    return scale_GF * jnp.exp(best)
