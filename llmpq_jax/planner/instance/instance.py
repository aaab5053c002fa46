"""One choice of micro-batches and of what holds for the whole model, in numbers.

Axes: L layers, J devices, B precisions. What is called a device here is whatever may
hold a stage: one device, or a mesh of several equal ones of a node, whose seconds are the
mesh's and whose bytes are those on each of its devices. Meshes that may be made of the
same devices share a pool. Infinite seconds mean "not supported there".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.schema.precision import Bits, HeadBits, KvBits, WireBits
from llmpq_jax.schema.workload import MicroBatch

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceGroup:
    """Equal devices of one node, of which stages take one or several each.

    Attributes:
        members: Devices and meshes that may be made of them, as indices of axis J.
        num_devices: How many there are to take.
    """

    members: tuple[int, ...]
    num_devices: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """The numbers of one case, see the module.

    Attributes:
        micro_batch: How the batch is cut.
        head_bits: Of the head.
        kv_bits: Of the cache.
        bits: What the columns of axis B stand for.
        num_prefill: Prefill micro-batches m_p.
        num_decode: Decode micro-batches m_d; where rows end apart, the mean over the
            rounds of those that are still busy, see `costmodel.continuous_batching`.
        new_tokens: New tokens n of each row; of the group that takes longest.
        layer_prefill_s: [J, B] of one layer and one prefill micro-batch.
        layer_decode_s: [J, B] of one layer, one step and one decode micro-batch.
        dispatch_prefill_s: [J] of a stage by itself, whatever it holds, for one prefill
            micro-batch: waking up for it.
        dispatch_decode_s: [J] likewise, for one step and one decode micro-batch.
        whole_dispatch_decode_s: [J] likewise, of a stage that holds the whole model and so
            takes several steps in a call; no more than `dispatch_decode_s`.
        embedding_prefill_s: [J] on the first used device.
        embedding_decode_s: [J] likewise.
        head_prefill_s: [J] on the last used device.
        head_decode_s: [J] likewise.
        wire_bits: What axis O stands for: the ways to send hidden states on a hop.
        wire_omega: [O], what each hop so sent loses.
        hop_prefill_s: [O, J, J] from row to column, of one micro-batch.
        hop_decode_s: [O, J, J] likewise.
        layer_bytes: [J, B] of one layer's weights.
        kv_bytes: [J] of one layer's cache.
        embedding_bytes: [J] on the first used device.
        head_bytes: [J] on the last used device.
        workspace_bytes: [J, B] of one layer; a stage needs the largest it runs.
        embedding_workspace_bytes: [J].
        head_workspace_bytes: [J].
        buffer_bytes: On every used device: hidden states it hands on.
        received_bytes: On every used device but the first: hidden states it is given.
        allowed_bytes: [J].
        must_use: [J], whether a device may not stay idle; in a pool, whether none of its
            devices may.
        may_hold: [L, J], whether a layer may lie there.
        may_have: [L, B], whether a layer may have these bits.
        width: [J], devices of a mesh, else 1.
        device_groups: Those that share devices; a device in none is there by itself.
        hosts: Devices that share a machine's processor; a mesh stands in one as often as
            it has devices, which all work for as long as it does.
        omega: [L, B].
        fixed_omega: Of the head and the cache at their bits.
        omega_budget: Σω may not exceed it, that of head and cache included.
        theta: Seconds that a unit of ω is worth.
    """

    micro_batch: MicroBatch
    head_bits: HeadBits
    kv_bits: KvBits
    bits: tuple[Bits, ...]
    num_prefill: int
    num_decode: float
    new_tokens: int
    layer_prefill_s: Floats
    layer_decode_s: Floats
    dispatch_prefill_s: Floats
    dispatch_decode_s: Floats
    whole_dispatch_decode_s: Floats
    embedding_prefill_s: Floats
    embedding_decode_s: Floats
    head_prefill_s: Floats
    head_decode_s: Floats
    wire_bits: tuple[WireBits, ...]
    wire_omega: Floats
    hop_prefill_s: Floats
    hop_decode_s: Floats
    layer_bytes: Integers
    kv_bytes: Integers
    embedding_bytes: Integers
    head_bytes: Integers
    workspace_bytes: Integers
    embedding_workspace_bytes: Integers
    head_workspace_bytes: Integers
    buffer_bytes: int
    received_bytes: int
    allowed_bytes: Integers
    must_use: npt.NDArray[np.bool_]
    may_hold: npt.NDArray[np.bool_]
    may_have: npt.NDArray[np.bool_]
    width: Integers
    device_groups: tuple[DeviceGroup, ...]
    hosts: tuple[Host, ...]
    omega: Floats
    fixed_omega: float
    omega_budget: float | None
    theta: float

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.omega)

    @property
    def num_devices(self) -> int:
        """J."""
        return len(self.allowed_bytes)

    @cached_property
    def supported(self) -> npt.NDArray[np.bool_]:
        """[J, B]: whether a device serves layers at these bits."""
        return np.isfinite(self.layer_prefill_s)

    @cached_property
    def may_be_first(self) -> npt.NDArray[np.bool_]:
        """[J]: whether a device can embed."""
        return np.isfinite(self.embedding_prefill_s)

    @cached_property
    def may_be_last(self) -> npt.NDArray[np.bool_]:
        """[J]: whether a device can hold the head."""
        return np.isfinite(self.head_prefill_s)

    @cached_property
    def allowed_omega(self) -> Floats:
        """[L, B]: ω, infinite where a layer may not have these bits."""
        return np.where(self.may_have, self.omega, np.inf)

    def with_devices(self, order: Sequence[int]) -> Instance:
        """Returns the same numbers with these devices, in this order."""
        places = list(order)
        by_device = (
            "layer_prefill_s",
            "layer_decode_s",
            "dispatch_prefill_s",
            "dispatch_decode_s",
            "whole_dispatch_decode_s",
            "embedding_prefill_s",
            "embedding_decode_s",
            "head_prefill_s",
            "head_decode_s",
            "layer_bytes",
            "kv_bytes",
            "embedding_bytes",
            "head_bytes",
            "workspace_bytes",
            "embedding_workspace_bytes",
            "head_workspace_bytes",
            "allowed_bytes",
            "must_use",
            "width",
        )
        changes = {name: getattr(self, name)[places] for name in by_device}
        changes["may_hold"] = self.may_hold[:, places]
        for name in ("hop_prefill_s", "hop_decode_s"):
            changes[name] = getattr(self, name)[:, places][:, :, places]

        def moved(members: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(sorted(places.index(j) for j in members if j in places))

        hosts = tuple(replace(h, members=moved(h.members)) for h in self.hosts)
        device_groups = tuple(
            replace(p, members=moved(p.members)) for p in self.device_groups
        )
        return replace(self, hosts=hosts, device_groups=device_groups, **changes)

    def has_devices_for(self, used: Sequence[int]) -> bool:
        """Whether stages on these may be there together, and none is left out."""
        held = set(used)
        is_pooled = np.zeros(self.num_devices, dtype=bool)
        for device_group in self.device_groups:
            is_pooled[list(device_group.members)] = True
            taken = sum(int(self.width[j]) for j in device_group.members if j in held)
            must = any(self.must_use[j] for j in device_group.members)
            if taken > device_group.num_devices or (
                must and taken < device_group.num_devices
            ):
                return False
        alone = np.flatnonzero(self.must_use & ~is_pooled)
        return held.issuperset(alone.tolist())
