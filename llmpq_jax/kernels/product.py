"""hidden @ weight, whatever the weight's bits and layout.

A weight in panels goes to the native kernels, one in groups to those of its GPU.
Everything else is plain XLA, where a
weight is converted from its integers straight to the type it is multiplied in: by way
of a third type XLA would keep a whole stage's converted copies alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmpq_jax.kernels.groups import GroupArray, permuted
from llmpq_jax.kernels.native import multiply_panels
from llmpq_jax.kernels.pallas_product import multiply_groups
from llmpq_jax.kernels.panels import PanelArray
from llmpq_jax.kernels.reduced_product import multiply_without_triton
from llmpq_jax.kernels.watched import WatchedArray, multiply_watched
from llmpq_jax.quant import QArray, dequantize, unpacked_values

Weight: TypeAlias = jax.Array | QArray | PanelArray | GroupArray | WatchedArray


def multiply(
    hidden: Float[Array, "*rows C"],
    weight: Float[Array, "C F"] | QArray | PanelArray | GroupArray | WatchedArray,
) -> Float[Array, "*rows F"]:
    """Returns the product in `hidden`'s type, accumulated in float32."""
    if isinstance(weight, PanelArray):
        return multiply_panels(hidden, [weight])[0]
    if isinstance(weight, WatchedArray):
        return multiply_watched(hidden, weight)
    if isinstance(weight, GroupArray):
        if weight.kernel == "pallas":
            return multiply_groups(hidden, weight)
        return multiply_without_triton(hidden, weight)
    if not isinstance(weight, QArray):
        return _dot(hidden, weight.astype(hidden.dtype))
    hidden = permuted(hidden, weight)
    if weight.num_groups == 1 and weight.zero_point is None:
        product = _dot32(hidden, unpacked_values(weight).astype(hidden.dtype))
        return (product * _row(weight.scale[0], product)).astype(hidden.dtype)
    return _dot(hidden, dequantize(weight).astype(hidden.dtype))


def multiply_together(
    hidden: Float[Array, "*rows C"], weights: Sequence[Weight]
) -> tuple[Float[Array, "*rows _F"], ...]:
    """Returns the products of the same hidden states with several weights.

    Where the native kernels serve them all alike, they do so in one call.
    """
    panels = [weight for weight in weights if isinstance(weight, PanelArray)]
    interchangeable_groups = {
        (panel.values.dtype, panel.num_groups) for panel in panels
    }
    if len(panels) == len(weights) and len(interchangeable_groups) == 1:
        return multiply_panels(hidden, panels)
    return tuple(multiply(hidden, weight) for weight in weights)


def _dot32(hidden: Array, weight: Array) -> Array:
    contracted = ((hidden.ndim - 1,), (0,))
    return jax.lax.dot_general(
        hidden, weight, (contracted, ((), ())), preferred_element_type=jnp.float32
    )


def _dot(hidden: Array, weight: Array) -> Array:
    return _dot32(hidden, weight).astype(hidden.dtype)


def _row(vector_F: Array, like: Array) -> Array:
    """Gives a vector the rank of an array whose last axis it goes along."""
    return vector_F.reshape((1,) * (like.ndim - 1) + vector_F.shape)
