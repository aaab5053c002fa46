"""Puts a matrix on a device, in the precision and layout that its kernels read."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from llmpq_jax.kernels.groups import group_kernel, to_groups
from llmpq_jax.kernels.panels import (
    ROWS_PER_WORD,
    fits_panels,
    round_to_panels,
    to_panels,
)
from llmpq_jax.kernels.path import device_kernel_path
from llmpq_jax.kernels.product import Weight
from llmpq_jax.quant import QArray, quantize
from llmpq_jax.schema.precision import Bits, group_size_for

_ROUNDED_NATIVELY = ("float32", "bfloat16", "float16")


def serve_matrix(
    matrix_CF: np.ndarray | QArray, *, bits: Bits, group_size: int, device: Any
) -> Weight:
    """Returns a matrix as a device serves it; a quantised one keeps its integers.

    A checkpoint's matrix, the transpose of a C-contiguous [F, C], is rounded straight
    into panels where native kernels serve; else it is put on the device, rounded, and
    given its layout in turn. The integers and scales are the same.
    """
    if isinstance(matrix_CF, QArray):
        return serving_layout(jax.device_put(matrix_CF, device), device=device)
    group = matrix_CF.shape[0]
    if bits == 4:
        group = group_size_for(group, group_size)
    if (
        device_kernel_path(device).startswith("native")
        and matrix_CF.T.flags.c_contiguous
        and matrix_CF.dtype.name
        in (_ROUNDED_NATIVELY if bits not in (16, 32) else ("bfloat16",))
        and (bits != 4 or group % ROWS_PER_WORD == 0)
    ):
        return round_to_panels(
            jax.device_put(matrix_CF.T, device), bits=bits, group_size=group
        )
    on_device = jax.device_put(matrix_CF, device)
    weight: jax.Array | QArray = on_device
    if bits not in (16, 32):
        weight = quantize(on_device, bits=bits, group_size=group_size)
    return serving_layout(weight, device=device)


def serving_layout(
    weight: jax.Array | QArray,
    *,
    device: Any,
    num_cuts: int = 1,
    num_row_cuts: int = 1,
) -> Weight:
    """Returns a weight in the layout of a device's kernels, if they have one.

    The whole matrix is given, its groups cut already if its rows are to be cut.
    Features are cut over `num_cuts` devices, rows over `num_row_cuts`.
    """
    path = device_kernel_path(device)
    if path.startswith("native"):
        if fits_panels(weight, num_cuts=num_cuts, num_row_cuts=num_row_cuts):
            return to_panels(weight)
    elif "-sm" in path and isinstance(weight, QArray):
        kernel = group_kernel(
            weight, has_triton=path.startswith("pallas"), num_row_cuts=num_row_cuts
        )
        if kernel is not None:
            return to_groups(weight, kernel=kernel)
    return weight
