"""An instance by device types and layer counts: the seconds and bytes of every stage.

A stage is a type, a first layer, counts of layers at each precision, and its role: whether
it embeds and whether it holds the head. Seconds and bytes depend on type, counts and role
alone. Axes: T types, C counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from llmpq_jax.planner.instance.device_symmetry import DeviceTypes, device_types
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.stage_bytes import Role, fitting_stages
from llmpq_jax.planner.search.layer_counts import LayerCounts


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class StageTable:
    """Seconds of every possible stage, and which ones fit.

    Attributes:
        instance: Numbers of the subproblem.
        types: Types of its devices.
        counts: Counts of layers at each precision, and their losses.
        layers_s: Seconds of a stage's layers, [P, T, C].
        fixed_s: Seconds of a stage's dispatch, embedding and head by role, [P, T];
            infinite where they are not supported.
        fits: Whether a stage fits its device, by role, [T, C].
        longest_runs: Longest run of layers from each one on that a type may hold,
            [T, L + 1].
        is_pinned: Whether there are layers that a type may not hold, [T].
    """

    instance: Instance
    types: DeviceTypes
    counts: LayerCounts
    layers_s: Float[np.ndarray, "P T C"]
    fixed_s: dict[Role, Float[np.ndarray, "P T"]]
    fits: dict[Role, Bool[np.ndarray, "T C"]]
    longest_runs: Int[np.ndarray, "T L+1"]
    is_pinned: Bool[np.ndarray, " T"]


def max_stage_layers(instance: Instance) -> int:
    """Returns the maximum number of layers of a device, workspace aside."""
    d = instance.devices
    size = d.layer_bytes + d.kv_bytes[:, None]
    room = np.maximum(d.allowed_bytes - instance.buffer_bytes, 0)
    held = np.where(d.supported, room[:, None] // size, 0)
    return int(min(instance.num_layers, max(1, held.max())))


def stage_table(instance: Instance, counts: LayerCounts) -> StageTable:
    """Tabulates an instance."""
    types = device_types(instance)
    d = instance.devices.take(types.first)
    fixed_s: dict[Role, Float[np.ndarray, "P T"]] = {
        "middle": d.dispatch_s,
        "first": d.dispatch_s + d.embedding_s,
        "last": d.dispatch_s + d.head_s,
        "only": d.whole_dispatch_s + d.embedding_s + d.head_s,
    }
    fits = fitting_stages(instance, types.first, counts.counts)
    fits["only"] &= counts.lengths == instance.num_layers
    runs = _longest_runs(d.may_hold.T)
    fits["first"] &= counts.lengths <= runs[:, :1]
    fits["only"] &= counts.lengths <= runs[:, :1]
    fits["last"] &= counts.lengths <= runs[:, instance.num_layers - counts.lengths]
    # Counts that use an unsupported precision fit nowhere, so their seconds are unread.
    layer_s = np.where(d.supported, d.layer_s, 0.0)
    return StageTable(
        instance=instance,
        types=types,
        counts=counts,
        layers_s=layer_s @ counts.counts.T,
        fixed_s=fixed_s,
        fits=fits,
        longest_runs=runs,
        is_pinned=np.asarray(~d.may_hold.all(axis=0)),
    )


def _longest_runs(may_hold: Bool[np.ndarray, "T L"]) -> Int[np.ndarray, "T L+1"]:
    """How many consecutive layers from each on are allowed."""
    num_types, num_layers = may_hold.shape
    runs = np.zeros((num_types, num_layers + 1), dtype=np.int64)
    for layer in reversed(range(num_layers)):
        runs[:, layer] = np.where(may_hold[:, layer], runs[:, layer + 1] + 1, 0)
    return runs
