"""hidden @ matrix in plain XLA, summed in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def matmul(
    hidden: Float[Array, "*rows C"], matrix_CF: Float[Array, "C F"]
) -> Float[Array, "*rows F"]:
    """Returns the product in `hidden`'s type, summed in float32."""
    return matmul_in_float32(hidden, matrix_CF).astype(hidden.dtype)


def matmul_in_float32(
    hidden: Float[Array, "*rows C"], matrix_CF: Float[Array, "C F"]
) -> Float[Array, "*rows F"]:
    """Returns the product in float32."""
    contracted = ((hidden.ndim - 1,), (0,))
    return jax.lax.dot_general(
        hidden, matrix_CF, (contracted, ((), ())), preferred_element_type=jnp.float32
    )
