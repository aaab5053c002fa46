"""Cuts of a model over devices in a given order, by dynamic programming.

    best[j, i] = min over k of  combine(best[j − 1, i − k], cost[j, i − k, k])

where k = 0 costs nothing: any device may stay idle, unless it must be used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Instance


def best_cut(
    instance: Instance,
    costs: Float[np.ndarray, "J L+1 L+1"],
    combine: Callable[[Floats, Floats], Floats],
) -> list[int] | None:
    """Returns how many layers each device holds in the cheapest cut, or None.

    Args:
        instance: Devices and layers.
        costs: Cost of k layers on device j from layer i on; infinite if they do not fit.
        combine: `np.add` for a sum over stages, `np.maximum` for the slowest.
    """
    must_use = instance.devices.must_use
    num_devices, num_layers = costs.shape[0], instance.num_layers
    best = np.where(np.arange(num_layers + 1) == 0, 0.0, np.inf)
    choices = np.zeros((num_devices, num_layers + 1), dtype=np.int64)
    for j in range(num_devices):
        after = np.full(num_layers + 1, np.inf)
        for end in range(num_layers + 1):
            first = np.arange(end + 1)
            own = costs[j, first, end - first]
            own = np.where(first == end, np.inf if must_use[j] else 0.0, own)
            values = combine(best[: end + 1], own)
            # An idle device changes nothing, with either combination.
            if not must_use[j]:
                values[end] = best[end]
            # Of equal cuts the one that gives most layers to earlier devices.
            last = int(np.flatnonzero(values == values.min())[-1])
            after[end], choices[j, end] = values[last], last
        best = after
    if not np.isfinite(best[num_layers]):
        return None
    held, end = [], num_layers
    for j in reversed(range(num_devices)):
        first = int(choices[j, end])
        held.insert(0, end - first)
        end = first
    return held


def one_precision_fits(instance: Instance, b: int) -> Bool[np.ndarray, "J L+1 L+1"]:
    """Returns whether k layers from i on fit a device, all at one precision."""
    d = instance.devices
    num_layers, num_devices = instance.num_layers, instance.num_devices
    fits = np.zeros((num_devices, num_layers + 1, num_layers + 1), dtype=bool)
    first, k = np.indices((num_layers + 1, num_layers + 1))
    is_first, is_last = first == 0, first + k == num_layers
    for j in range(num_devices):
        size = k * int(d.layer_bytes[j, b] + d.kv_bytes[j]) + instance.buffer_bytes
        size = size + is_first * d.embedding_bytes[j]
        size = size + ~is_first * instance.received_bytes
        size = size + is_last * d.head_bytes[j]
        workspace = np.full(k.shape, d.workspace_bytes[j, b])
        fits[j] = bool(d.supported[j, b])
        for is_there, need, may_be in (
            (is_first, d.embedding_workspace_bytes[j], d.may_be_first[j]),
            (is_last, d.head_workspace_bytes[j], d.may_be_last[j]),
        ):
            workspace = np.maximum(workspace, np.where(is_there, need, 0))
            fits[j] &= may_be | ~is_there
        fits[j] &= size + workspace <= d.allowed_bytes[j]
    return fits & (k > 0) & (first + k <= num_layers)
