"""An instance by types of device and counts of layers: what every stage would cost.

A stage is a type, a first layer, counts, and its role: whether it embeds and whether it
holds the head. Seconds and bytes depend on type, counts and role alone. Axes: T types,
C counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.device_symmetry import DeviceTypes, device_types
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.planner.search.layer_counts import LayerCounts

Role = Literal["middle", "first", "last", "only"]
ROLES: tuple[Role, ...] = ("middle", "first", "last", "only")


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class StageTable:
    """Seconds of every possible stage, and which ones fit.

    Attributes:
        instance: Which this is of.
        types: Its types of device.
        counts: The tables of counts.
        prefill_s: [T, C] of the layers alone.
        decode_s: [T, C] likewise, of one step.
        end_prefill_s: By role [T], what its call and its ends add; infinite where they
            are not supported.
        end_decode_s: By role [T] likewise.
        fits: By role [T, C].
        longest_runs: [T, L + 1], the most layers from each on that a type may hold.
        is_pinned: [T], whether there are any that it may not.
    """

    instance: Instance
    types: DeviceTypes
    counts: LayerCounts
    prefill_s: Floats
    decode_s: Floats
    end_prefill_s: dict[Role, Floats]
    end_decode_s: dict[Role, Floats]
    fits: dict[Role, npt.NDArray[np.bool_]]
    longest_runs: npt.NDArray[np.int64]
    is_pinned: npt.NDArray[np.bool_]


def max_stage_layers(instance: Instance) -> int:
    """Returns the most layers any device holds, ends and workspace aside."""
    size = instance.layer_bytes + instance.kv_bytes[:, None]
    room = np.maximum(instance.allowed_bytes - instance.buffer_bytes, 0)
    held = np.where(instance.supported, room[:, None] // size, 0)
    return int(min(instance.num_layers, max(1, held.max())))


def stage_table(instance: Instance, counts: LayerCounts) -> StageTable:
    """Tabulates an instance."""
    types = device_types(instance)
    devices = types.first
    supported = instance.supported[devices]
    of_counts = counts.counts
    may_hold = np.stack(
        [(of_counts[:, ~row] == 0).all(axis=1) for row in supported], axis=0
    )
    ends_prefill = _by_role(
        instance.dispatch_prefill_s[devices],
        instance.dispatch_prefill_s[devices],
        instance.embedding_prefill_s[devices],
        instance.head_prefill_s[devices],
    )
    ends_decode = _by_role(
        instance.dispatch_decode_s[devices],
        instance.whole_dispatch_decode_s[devices],
        instance.embedding_decode_s[devices],
        instance.head_decode_s[devices],
    )
    fits: dict[Role, npt.NDArray[np.bool_]] = {
        role: may_hold
        & np.isfinite(ends_prefill[role])[:, None]
        & (
            stage_bytes(
                instance,
                devices,
                of_counts,
                is_first=role in ("first", "only"),
                is_last=role in ("last", "only"),
            ).total
            <= instance.allowed_bytes[devices][:, None]
        )
        for role in ROLES
    }
    fits["only"] &= counts.lengths == instance.num_layers
    runs = _longest_runs(instance.may_hold[:, devices].T)
    fits["first"] &= counts.lengths <= runs[:, :1]
    fits["only"] &= counts.lengths <= runs[:, :1]
    fits["last"] &= counts.lengths <= runs[:, instance.num_layers - counts.lengths]
    return StageTable(
        instance=instance,
        types=types,
        counts=counts,
        prefill_s=_layers_s(instance.layer_prefill_s[devices], supported) @ of_counts.T,
        decode_s=_layers_s(instance.layer_decode_s[devices], supported) @ of_counts.T,
        end_prefill_s=ends_prefill,
        end_decode_s=ends_decode,
        fits=fits,
        longest_runs=runs,
        is_pinned=np.asarray(~instance.may_hold[:, devices].all(axis=0)),
    )


def _by_role(
    call: Floats, whole_call: Floats, embedding: Floats, head: Floats
) -> dict[Role, Floats]:
    return {
        "middle": call,
        "first": call + embedding,
        "last": call + head,
        "only": whole_call + embedding + head,
    }


def _longest_runs(may_hold: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """[T, L + 1]: how many layers in a row from each on are allowed."""
    num_types, num_layers = may_hold.shape
    runs = np.zeros((num_types, num_layers + 1), dtype=np.int64)
    for layer in reversed(range(num_layers)):
        runs[:, layer] = np.where(may_hold[:, layer], runs[:, layer + 1] + 1, 0)
    return runs


def _layers_s(seconds: Floats, supported: npt.NDArray[np.bool_]) -> Floats:
    # Counts that use an unsupported precision fit nowhere, so their seconds are unread.
    return np.where(supported, seconds, 0.0)
