"""A weight that tells what passes through it, when its loss is differentiated.

The second moments of a matrix's inputs, and of the loss's gradient by its outputs, are
what the loss's second order in that matrix is made of. Both are sums over tokens of
products that backpropagation holds in its hands anyway, so they come out of it as the
"gradients" of two slots that change nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class WatchedArray(NamedTuple):
    """A matrix [C, F] with slots for its moments; both slots hold zeros.

    Attributes:
        matrix: In 16 or 32 bits.
        input_slot: [C, C]; its gradient is Σ x·xᵀ over the tokens' inputs x.
        output_slot: [F]; its gradient is Σ g² over the gradients g of the tokens' outputs.
    """

    matrix: jax.Array
    input_slot: jax.Array
    output_slot: jax.Array

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix; nothing served has slots."""
        return self.matrix.nbytes


def watched(matrix_CF: Float[Array, "C F"]) -> WatchedArray:
    """Gives a matrix its slots."""
    num_contracted, num_features = matrix_CF.shape
    return WatchedArray(
        matrix=matrix_CF,
        input_slot=jnp.zeros((num_contracted, num_contracted), jnp.float32),
        output_slot=jnp.zeros((num_features,), jnp.float32),
    )


@jax.custom_vjp
def multiply_watched(
    hidden: Float[Array, "*rows C"], weight: WatchedArray
) -> Float[Array, "*rows F"]:
    """Returns hidden @ matrix in `hidden`'s type; the matrix itself gets no gradient."""
    contracted = ((hidden.ndim - 1,), (0,))
    return jax.lax.dot_general(
        hidden,
        weight.matrix.astype(hidden.dtype),
        (contracted, ((), ())),
        preferred_element_type=jnp.float32,
    ).astype(hidden.dtype)


def _forward(
    hidden: Array, weight: WatchedArray
) -> tuple[Array, tuple[Array, WatchedArray]]:
    return multiply_watched(hidden, weight), (hidden, weight)


def _backward(
    held: tuple[Array, WatchedArray], gradient: Array
) -> tuple[Array, WatchedArray]:
    hidden, weight = held
    inputs = hidden.reshape(-1, hidden.shape[-1]).astype(jnp.float32)
    outputs = gradient.reshape(-1, gradient.shape[-1]).astype(jnp.float32)
    to_hidden = gradient @ weight.matrix.astype(gradient.dtype).T
    return to_hidden, WatchedArray(
        matrix=jnp.zeros_like(weight.matrix),
        input_slot=inputs.T @ inputs,
        output_slot=jnp.sum(outputs * outputs, axis=0),
    )


multiply_watched.defvjp(_forward, _backward)
