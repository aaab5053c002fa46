"""Brings a matrix into the layout that its device's kernels read."""

from __future__ import annotations

import jax

from llmpq_jax.kernels.native import kernel_path
from llmpq_jax.kernels.panels import PanelArray, fits_panels, to_panels
from llmpq_jax.quant import QArray


def serving_layout(
    weight: jax.Array | QArray, *, platform: str, num_cuts: int = 1
) -> jax.Array | QArray | PanelArray:
    """Returns a weight as it is served, or as it was given if that is how.

    Args:
        weight: A matrix; where its rows are to be cut, its groups are cut already.
        platform: JAX's name of the backend.
        num_cuts: How many devices its features are cut over.
    """
    if (
        platform == "cpu"
        and kernel_path("cpu").startswith("native")
        and fits_panels(weight, num_cuts=num_cuts)
    ):
        return to_panels(weight)
    return weight
