"""A matrix whose moments come out of backpropagation, as gradients of two slots.

The loss's second order in a matrix is made of the second moments of its inputs, and of
the loss's gradient by its outputs. Both are sums over tokens of products that
backpropagation has at hand, so it returns them as the "gradients" of two slots that
change nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmpq_jax.quant import matmul


class MomentArray(NamedTuple):
    """A matrix [C, F] with slots for its moments; both slots hold zeros.

    Attributes:
        matrix: The matrix itself, in 16 or 32 bits.
        input_slot: Zeros [C, C]; their gradient is Σ x·xᵀ over the tokens' inputs x.
        output_slot: Zeros [F]; their gradient is Σ g² over the gradients g of the
            tokens' outputs.
    """

    matrix: jax.Array
    input_slot: jax.Array
    output_slot: jax.Array

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix; its slots exist only while moments are taken."""
        return self.matrix.nbytes

    def matmul(self, hidden: Float[Array, "*rows C"]) -> Float[Array, "*rows F"]:
        """Returns hidden @ matrix in `hidden`'s type; the matrix gets no gradient."""
        return _multiply(hidden, self)


def with_moment_slots(matrix_CF: Float[Array, "C F"]) -> MomentArray:
    """Returns a matrix with its slots."""
    num_contracted, num_features = matrix_CF.shape
    return MomentArray(
        matrix=matrix_CF,
        input_slot=jnp.zeros((num_contracted, num_contracted), jnp.float32),
        output_slot=jnp.zeros((num_features,), jnp.float32),
    )


@jax.custom_vjp
def _multiply(hidden: Array, weight: MomentArray) -> Array:
    return matmul(hidden, weight.matrix.astype(hidden.dtype))


def _forward(
    hidden: Array, weight: MomentArray
) -> tuple[Array, tuple[Array, MomentArray]]:
    return _multiply(hidden, weight), (hidden, weight)


def _backward(
    saved: tuple[Array, MomentArray], gradient: Array
) -> tuple[Array, MomentArray]:
    hidden, weight = saved
    inputs = hidden.reshape(-1, hidden.shape[-1]).astype(jnp.float32)
    outputs = gradient.reshape(-1, gradient.shape[-1]).astype(jnp.float32)
    to_hidden = gradient @ weight.matrix.astype(gradient.dtype).T
    return to_hidden, MomentArray(
        matrix=jnp.zeros_like(weight.matrix),
        input_slot=inputs.T @ inputs,
        output_slot=jnp.sum(outputs * outputs, axis=0),
    )


_multiply.defvjp(_forward, _backward)
