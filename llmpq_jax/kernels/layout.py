"""Brings a matrix to a device, in the precision and layout that its kernels read."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from llmpq_jax.kernels.native import kernel_path, round_to_panels
from llmpq_jax.kernels.panels import (
    ROWS_PER_WORD,
    PanelArray,
    fits_panels,
    to_panels,
)
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.spec.precision import Bits, group_size_for

_ROUNDED_NATIVELY = ("float32", "bfloat16", "float16")


def serve_matrix(
    matrix_CF: np.ndarray | QArray, *, bits: Bits, group_size: int, device: Any
) -> jax.Array | QArray | PanelArray:
    """Returns a matrix as one device serves it.

    A checkpoint's matrix, the transpose of one whose features lie one after another, is
    rounded straight into panels where native kernels serve; else it is placed, rounded
    and laid out in turn. The integers and scales are the same.

    Args:
        matrix_CF: On the host; what is quantised already keeps its integers and scales.
        bits: Of the result; 16 keeps the type.
        group_size: Of int4, at most.
        device: Of JAX, where to.
    """
    if isinstance(matrix_CF, QArray):
        placed = jax.device_put(matrix_CF, device)
        return serving_layout(placed, platform=device.platform)
    group = matrix_CF.shape[0]
    if bits == 4:
        group = group_size_for(group, group_size)
    if (
        _serves_panels(device.platform)
        and matrix_CF.T.flags.c_contiguous
        and matrix_CF.dtype.name in (_ROUNDED_NATIVELY if bits != 16 else ("bfloat16",))
        and (bits != 4 or group % ROWS_PER_WORD == 0)
    ):
        return round_to_panels(
            jax.device_put(matrix_CF.T, device), bits=bits, group_size=group
        )
    on_device = jax.device_put(matrix_CF, device)
    weight: jax.Array | QArray = on_device
    if bits != 16:
        weight = quantize(on_device, bits=bits, group_size=group_size)
    return serving_layout(weight, platform=device.platform)


def serving_layout(
    weight: jax.Array | QArray, *, platform: str, num_cuts: int = 1
) -> jax.Array | QArray | PanelArray:
    """Returns a weight as it is served, or as it was given if that is how.

    Args:
        weight: A matrix; where its rows are to be cut, its groups are cut already.
        platform: JAX's name of the backend.
        num_cuts: How many devices its features are cut over.
    """
    if _serves_panels(platform) and fits_panels(weight, num_cuts=num_cuts):
        return to_panels(weight)
    return weight


def _serves_panels(platform: str) -> bool:
    return platform == "cpu" and kernel_path("cpu") != "xla"
