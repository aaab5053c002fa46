"""hidden @ weight, whatever the weight's bits and layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import jax
from jaxtyping import Array, Float

from llmpq_jax.kernels.panels import PanelArray, multiply_panels
from llmpq_jax.quant import matmul


@runtime_checkable
class WeightMatrix(Protocol):
    """A matrix [C, F] in some precision and layout, with the product that serves it."""

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        ...

    def matmul(self, hidden: Array) -> Array:
        """Returns hidden [.., C] @ weight in `hidden`'s type, summed in float32."""
        ...


Weight: TypeAlias = jax.Array | WeightMatrix


def multiply(
    hidden: Float[Array, "*rows C"], weight: Weight
) -> Float[Array, "*rows _F"]:
    """Returns hidden @ weight in `hidden`'s type, summed in float32."""
    if isinstance(weight, jax.Array):
        return matmul(hidden, weight.astype(hidden.dtype))
    return weight.matmul(hidden)


def multiply_together(
    hidden: Float[Array, "*rows C"], weights: Sequence[Weight]
) -> tuple[Float[Array, "*rows _F"], ...]:
    """Returns the products of the same hidden states with several weights.

    Panels of the same bits and groups are multiplied in one call of the native kernels.
    """
    panels = [weight for weight in weights if isinstance(weight, PanelArray)]
    layouts = {(panel.values.dtype, panel.num_groups) for panel in panels}
    if len(panels) == len(weights) and len(layouts) == 1:
        return multiply_panels(hidden, panels)
    return tuple(multiply(hidden, weight) for weight in weights)
