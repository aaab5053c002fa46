"""Cuts of a model over devices in a given order, by dynamic programming.

    best[j, i] = min over k of  combine(best[j − 1, i − k], cost[j, i − k, k])

with k = 0 free of cost: any device may stay idle, unless it must be used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Instance

# Cost of k layers on device j from layer i on, [J, L + 1, L + 1]; infinite where not.
StageCosts = Floats


def best_cut(
    instance: Instance,
    costs: StageCosts,
    combine: Callable[[Floats, Floats], Floats],
) -> list[int] | None:
    """Returns how many layers each device holds in the cheapest cut, or nothing.

    Args:
        instance: Whose devices and layers.
        costs: See `StageCosts`.
        combine: `np.add` for a sum over stages, `np.maximum` for the slowest.
    """
    num_devices, num_layers = costs.shape[0], instance.num_layers
    best = np.where(np.arange(num_layers + 1) == 0, 0.0, np.inf)
    choices = np.zeros((num_devices, num_layers + 1), dtype=np.int64)
    for j in range(num_devices):
        after = np.full(num_layers + 1, np.inf)
        for end in range(num_layers + 1):
            first = np.arange(end + 1)
            own = costs[j, first, end - first]
            own = np.where(first == end, np.inf if instance.must_use[j] else 0.0, own)
            values = combine(best[: end + 1], own)
            # An idle device leaves what was, whatever is combined.
            if not instance.must_use[j]:
                values[end] = best[end]
            # Of equal cuts the one that leaves most to earlier devices.
            at = int(np.flatnonzero(values == values.min())[-1])
            after[end], choices[j, end] = values[at], at
        best = after
    if not np.isfinite(best[num_layers]):
        return None
    held, end = [], num_layers
    for j in reversed(range(num_devices)):
        first = int(choices[j, end])
        held.insert(0, end - first)
        end = first
    return held


def one_precision_fits(instance: Instance, b: int) -> np.ndarray:
    """[J, L + 1, L + 1]: whether k layers from i on fit a device, all at one precision."""
    num_layers, num_devices = instance.num_layers, instance.num_devices
    fits = np.zeros((num_devices, num_layers + 1, num_layers + 1), dtype=bool)
    first, k = np.indices((num_layers + 1, num_layers + 1))
    is_first, is_last = first == 0, first + k == num_layers
    for j in range(num_devices):
        layer = int(instance.layer_bytes[j, b] + instance.kv_bytes[j])
        size = k * layer + instance.buffer_bytes
        size = size + is_first * instance.embedding_bytes[j]
        size = size + ~is_first * instance.received_bytes
        size = size + is_last * instance.head_bytes[j]
        workspace = np.full(k.shape, instance.workspace_bytes[j, b])
        ends = (
            (is_first, instance.embedding_workspace_bytes[j], instance.may_be_first[j]),
            (is_last, instance.head_workspace_bytes[j], instance.may_be_last[j]),
        )
        fits[j] = bool(instance.supported[j, b])
        for is_there, need, may in ends:
            workspace = np.maximum(workspace, np.where(is_there, need, 0))
            fits[j] &= may | ~is_there
        fits[j] &= size + workspace <= instance.allowed_bytes[j]
    return fits & (k > 0) & (first + k <= num_layers)
