"""A slow and obvious reference in NumPy and float64, for tests and benchmarks."""

from __future__ import annotations

import numpy as np

from llmpq_jax.quant.qarray import QArray


def reference_weight(weight: QArray) -> np.ndarray:
    """Returns the float64 matrix [C, F] that multiplies inputs in their own order."""
    values = np.asarray(weight.values)
    if weight.bits == 4:
        low, high = values & 0x0F, values >> 4
        nibbles = np.stack([low, high], axis=-1).reshape(values.shape[0], -1)
        values = np.where(nibbles >= 8, nibbles.astype(np.int16) - 16, nibbles)
    scale = np.asarray(weight.scale, np.float64)
    result = np.empty(values.shape, np.float64)
    rows = np.arange(values.shape[0])
    if weight.permutation is not None:
        rows = np.asarray(weight.permutation)
    for stored, row in enumerate(rows):
        group = stored // weight.group_size
        offset = (
            0 if weight.zero_point is None else np.asarray(weight.zero_point)[group]
        )
        result[row] = scale[group] * (values[stored].astype(np.float64) - offset)
    return result


def reference_product(hidden: np.ndarray, weight: QArray) -> np.ndarray:
    """Returns hidden @ weight in float64."""
    return np.asarray(hidden, np.float64) @ reference_weight(weight)
