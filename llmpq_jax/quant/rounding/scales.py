"""Scales of a weight's groups: by the largest magnitude, or smaller ones that clip."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

from llmpq_jax.quant.quantizer import scale_of

# Shares of the largest magnitude: below a half, clipping costs more than it gains.
_SHARES = np.linspace(1.0, 0.5, 21, dtype=np.float32)


@partial(jax.jit, static_argnames=("largest", "group"))
def nearest_scales(
    weight_CF: Float[Array, "C F"], *, largest: int, group: int
) -> Float[Array, "G F"]:
    """Returns the scales at which each group's largest magnitude becomes `largest`."""
    grouped = weight_CF.reshape(-1, group, weight_CF.shape[1])
    return scale_of(jnp.max(jnp.abs(grouped), axis=1), largest)


@partial(jax.jit, static_argnames=("largest", "group"))
def clipped_scales(
    weight_CF: Float[Array, "C F"],
    importance_C: Float[Array, " C"],
    *,
    largest: int,
    group: int,
) -> Float[Array, "G F"]:
    """Returns the scales that minimise Σ importance · (rounded − weight)² of each group.

    Twenty-one shares of the nearest scale, from 1 to ½, are tried.
    """
    widest_GF = nearest_scales(weight_CF, largest=largest, group=group)
    grouped = weight_CF.reshape(-1, group, weight_CF.shape[1])
    importance = importance_C.reshape(-1, group, 1)

    def error_GF(share: Array) -> Array:
        scale = (widest_GF * share)[:, None]
        integers = jnp.clip(jnp.round(grouped / scale), -largest, largest)
        return jnp.sum(importance * (integers * scale - grouped) ** 2, axis=1)

    def better(best: tuple[Array, Array], share: Array) -> tuple[Any, None]:
        best_GF, share_GF = best
        error = error_GF(share)
        is_less = error < best_GF
        share_GF = jnp.where(is_less, share, share_GF)
        return (jnp.minimum(error, best_GF), share_GF), None

    start = (error_GF(jnp.float32(1)), jnp.ones_like(widest_GF))
    (_, share_GF), _ = jax.lax.scan(better, start, jnp.asarray(_SHARES[1:]))
    return widest_GF * share_GF


@partial(jax.jit, static_argnames=("largest",))
def to_integers(
    weight_CF: Float[Array, "C F"], scale_GF: Float[Array, "G F"], *, largest: int
) -> Int8[Array, "C F"]:
    """Rounds each weight to the nearest multiple of its group's scale."""
    group = weight_CF.shape[0] // scale_GF.shape[0]
    # As in `quantize`: a product with a reciprocal, which compilers leave as it is.
    steps = weight_CF * (1 / jnp.repeat(scale_GF, group, axis=0))
    return jnp.clip(jnp.round(steps), -largest, largest).astype(jnp.int8)
