"""Plans to start from: one precision for all layers, cut to balance the devices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmpq_jax.cost.quality import is_within
from llmpq_jax.cost.tables import Floats
from llmpq_jax.solver.instance import Instance
from llmpq_jax.solver.placement import Placement


def starting_placements(instance: Instance) -> Iterator[Placement]:
    """Yields a balanced cut for each precision that alone keeps the budget.

    Each is least in the slowest stage's work, or shortest in the sum of all stages'
    work; nothing more is claimed of it, and one may not fit.
    """
    for b in range(len(instance.bits)):
        omega = instance.head_omega + float(instance.omega[:, b].sum())
        if is_within(omega, instance.omega_budget):
            for is_balanced in (True, False):
                placement = _cut(instance, b, is_balanced=is_balanced)
                if placement is not None:
                    yield placement


def _cut(instance: Instance, b: int, *, is_balanced: bool) -> Placement | None:
    """Dynamic programme over devices and layers placed so far, O(J·L²).

    Ends' bytes count on the first and last device of the cluster; where the plan leaves
    those idle, `evaluate` finds out whether it fits.
    """
    num_layers, num_devices = instance.num_layers, instance.num_devices
    costs = _work_s(instance, b)
    ends = np.arange(num_layers + 1)
    held = ends[:, None] - ends[None, :]
    best: Floats = np.where(ends == 0, 0.0, np.inf)
    choices = []
    for j in range(num_devices):
        most = _most_layers(instance, j, b)
        own = np.where(held > 0, held * costs[j], 0.0)
        values = np.maximum(best, own) if is_balanced else best + own
        is_allowed = (held >= int(instance.must_use[j])) & (held <= most)
        values = np.where(is_allowed, values, np.inf)
        choices.append(values.argmin(axis=1))
        best = values.min(axis=1)
    if not np.isfinite(best[num_layers]):
        return None
    devices, columns, end = [], [], num_layers
    for j in reversed(range(num_devices)):
        start = int(choices[j][end])
        if start < end:
            devices.insert(0, j)
            columns.insert(0, (b,) * (end - start))
        end = start
    is_valid = instance.may_be_first[devices[0]] and instance.may_be_last[devices[-1]]
    return (
        Placement(devices=tuple(devices), columns=tuple(columns)) if is_valid else None
    )


def _work_s(instance: Instance, b: int) -> Floats:
    """[J]: seconds a layer keeps a device busy over the whole batch.

    0 where it is not supported, and `_most_layers` lets none lie.
    """
    prefill_s = np.where(instance.supported[:, b], instance.layer_prefill_s[:, b], 0.0)
    decode_s = np.where(instance.supported[:, b], instance.layer_decode_s[:, b], 0.0)
    steps = (instance.new_tokens - 1) * instance.num_decode
    return instance.num_prefill * prefill_s + steps * decode_s


def _most_layers(instance: Instance, j: int, b: int) -> int:
    if not instance.supported[j, b]:
        return 0
    free = (
        instance.allowed_bytes[j]
        - instance.buffer_bytes
        - instance.workspace_bytes[j, b]
    )
    if j == 0:
        free -= instance.embedding_bytes
    if j == instance.num_devices - 1:
        free -= instance.head_bytes
    size = instance.layer_bytes[b] + instance.kv_bytes
    return min(instance.num_layers, max(0, int(free // size)))
