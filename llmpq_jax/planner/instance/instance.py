"""One subproblem in numbers: micro-batch sizes, precisions, and what they take and hold.

Axes: P phases (prefill, decode), L layers, J devices, B precisions, O precisions of a hop.
See `device_numbers` for what is called a device. Meshes that may be made of the same
devices share a device group.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.planner.instance.device_numbers import (
    DECODE,
    PREFILL,
    DeviceNumbers,
    axes_of,
    take_devices,
)
from llmpq_jax.schema.precision import Bits, HeadBits, KvBits, WireBits
from llmpq_jax.schema.workload import MicroBatch

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceGroup:
    """Equal devices of one node, of which stages take one or several each.

    Attributes:
        members: Devices and meshes that may be made of them, as indices of axis J.
        num_devices: Number of devices that stages may take in all.
    """

    members: tuple[int, ...]
    num_devices: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """The numbers of one subproblem, see the module.

    Attributes:
        micro_batch: Rows of a prefill and of a decode micro-batch.
        head_bits: Precision of the head.
        kv_bits: Precision of the cache.
        bits: Precisions on axis B.
        num_micro_batches: Micro-batches of each phase, [P]; of decode, where rows end
            apart, the mean over the rounds of those that are still busy, see
            `costmodel.continuous_batching`.
        new_tokens: New tokens n of each row; of the group that takes longest.
        devices: Numbers of each device.
        hop_s: Seconds of a hop of one micro-batch from one device to another, by the
            precision it is sent at, [P, O, J, J].
        wire_bits: Precisions on axis O, at which hidden states may be sent.
        wire_omega: Loss of a hop, [O].
        buffer_bytes: Bytes of the hidden states that every stage sends.
        received_bytes: Bytes of the hidden states that every stage but the first receives.
        may_have: Whether a layer may have these bits, [L, B].
        device_groups: Groups of devices that meshes are made of; a device in none of them
            is its own group.
        hosts: Devices that share a machine's processor; a mesh is in one as often as it
            has devices, which all work for as long as it does.
        omega: Loss of a layer, [L, B].
        fixed_omega: Loss of the head and the cache at their bits.
        omega_budget: Largest Σω allowed, head and cache included; None for no limit.
        theta: Seconds that a unit of ω is worth.
        merges_memory: Whether devices that differ in free memory alone count as one type,
            of the most that one of them has. Bounds stay bounds; which of them holds a
            stage is decided by what fits.
    """

    micro_batch: MicroBatch
    head_bits: HeadBits
    kv_bits: KvBits
    bits: tuple[Bits, ...]
    num_micro_batches: tuple[int, float]
    new_tokens: int
    devices: DeviceNumbers
    hop_s: Float[np.ndarray, "P O J J"]
    wire_bits: tuple[WireBits, ...]
    wire_omega: Float[np.ndarray, " O"]
    buffer_bytes: int
    received_bytes: int
    may_have: Bool[np.ndarray, "L B"]
    device_groups: tuple[DeviceGroup, ...]
    hosts: tuple[Host, ...]
    omega: Float[np.ndarray, "L B"]
    fixed_omega: float
    omega_budget: float | None
    theta: float
    merges_memory: bool = False

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.omega)

    @property
    def num_devices(self) -> int:
        """Number of devices J."""
        return len(self.devices.allowed_bytes)

    @property
    def num_rounds(self) -> tuple[int, int]:
        """How often a phase takes all its micro-batches through the pipeline, [P]."""
        return 1, self.new_tokens - 1

    @property
    def phases(self) -> tuple[int, ...]:
        """Phases there are, as indices of axis P: of one new token, prefill alone."""
        return (PREFILL, DECODE) if self.new_tokens > 1 else (PREFILL,)

    @cached_property
    def allowed_omega(self) -> Float[np.ndarray, "L B"]:
        """Loss of a layer, infinite where it may not have these bits."""
        return np.where(self.may_have, self.omega, np.inf)

    def with_devices(self, order: Sequence[int]) -> Instance:
        """Returns the same numbers with these devices, in this order."""
        taken = list(order)

        def moved(members: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(sorted(taken.index(j) for j in members if j in taken))

        return replace(
            self,
            devices=self.devices.take(taken),
            hop_s=take_devices(self.hop_s, axes_of(Instance)["hop_s"], taken),
            hosts=tuple(
                replace(host, members=moved(host.members)) for host in self.hosts
            ),
            device_groups=tuple(
                replace(group, members=moved(group.members))
                for group in self.device_groups
            ),
        )

    def signature(self, device: int, *, without: Collection[str] = ()) -> bytes:
        """Returns a device's numbers, machines and groups, that is all but its hops.

        Fields of its numbers that are named in `without` are left out.
        """
        shared = [host.members.count(device) for host in self.hosts]
        shared += [device in group.members for group in self.device_groups]
        own = self.devices.signature(device, without=without)
        return own + np.array(shared).tobytes()

    def has_devices_for(self, used: Sequence[int]) -> bool:
        """Whether there are devices for stages on all of these, and none is left out."""
        held = set(used)
        is_grouped = np.zeros(self.num_devices, dtype=bool)
        for group in self.device_groups:
            is_grouped[list(group.members)] = True
            taken = sum(int(self.devices.width[j]) for j in group.members if j in held)
            must = any(self.devices.must_use[j] for j in group.members)
            if taken > group.num_devices or (must and taken < group.num_devices):
                return False
        alone = np.flatnonzero(self.devices.must_use & ~is_grouped)
        return held.issuperset(alone.tolist())
