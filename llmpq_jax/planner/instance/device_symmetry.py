"""Which devices of an instance are interchangeable, and its numbers by such types.

Two devices are of one type where swapping them changes no number: same times, memory,
pins, width and shared machine, and the same hops to and from every other device. Plans
then differ by *how many* devices of each type they use, never by which. Types whose meshes
may be made of the same devices share a pool; any other type is a pool of its own. Axes: T
types, Q pools.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Instance, Integers


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class DeviceTypes:
    """Types of an instance's devices.

    Attributes:
        members: For each type its devices, as indices of axis J, in that order.
        widths: [T] devices that each of them takes from its pool.
        device_group: [T] which pool that is.
        sizes: [Q] devices in a pool.
        must_use: [Q], whether all of them have to be used.
        hop_prefill_s: [O, T, T] from row to column; within a type between any two.
        hop_decode_s: [O, T, T] likewise.
        hosts: For each host of the instance its types, each as often as it is wide.
    """

    members: tuple[tuple[int, ...], ...]
    widths: Integers
    device_group: Integers
    sizes: Integers
    must_use: np.ndarray
    hop_prefill_s: Floats
    hop_decode_s: Floats
    hosts: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> list[int]:
        """One device of each type."""
        return [members[0] for members in self.members]

    @property
    def num_types(self) -> int:
        """T."""
        return len(self.members)

    @property
    def num_groups(self) -> int:
        """Q."""
        return len(self.sizes)

    def may_follow(self, t: int, k: int) -> bool:
        """Whether a plan may have a device of each of these types, beside each other."""
        taken = self.widths[t] + self.widths[k]
        return bool(
            self.device_group[t] != self.device_group[k]
            or taken <= self.sizes[self.device_group[t]]
        )

    def by_group(self, values: Floats) -> Floats:
        """[Q]: sums what types have, each times its width."""
        total = np.zeros(self.num_groups)
        np.add.at(total, self.device_group, self.widths * values)
        return total


def device_types(instance: Instance) -> DeviceTypes:
    """Finds the types, in the order of their first devices."""
    groups: list[list[int]] = []
    interchangeable_groups: dict[bytes, list[list[int]]] = defaultdict(list)
    for j in range(instance.num_devices):
        candidates = interchangeable_groups[_own_numbers(instance, j)]
        group = next(
            (g for g in candidates if _hops_are_swappable(instance, g[0], j)), None
        )
        if group is None:
            group = []
            groups.append(group)
            candidates.append(group)
        group.append(j)
    members = tuple(tuple(group) for group in groups)
    device_group, sizes = _pools(instance, members)
    must_use = np.zeros(len(sizes), dtype=bool)
    must_use[device_group] = instance.must_use[[group[0] for group in members]]
    return DeviceTypes(
        members=members,
        widths=instance.width[[group[0] for group in members]],
        device_group=device_group,
        sizes=sizes,
        must_use=must_use,
        hop_prefill_s=_between_types(instance.hop_prefill_s, members),
        hop_decode_s=_between_types(instance.hop_decode_s, members),
        hosts=tuple(
            tuple(
                t
                for t, group in enumerate(members)
                for _ in range(host.members.count(group[0]))
            )
            for host in instance.hosts
        ),
    )


def _pools(
    instance: Instance, members: tuple[tuple[int, ...], ...]
) -> tuple[Integers, Integers]:
    """Numbers the pools in the order of their first types; [T] which, [Q] their sizes."""
    shared = {
        j: device_group
        for device_group in instance.device_groups
        for j in device_group.members
    }
    numbers: dict[tuple[int, ...], int] = {}
    pool_of, sizes = [], []
    for group in members:
        device_group = shared.get(group[0])
        key = group if device_group is None else device_group.members
        if key not in numbers:
            numbers[key] = len(sizes)
            sizes.append(
                len(group) if device_group is None else device_group.num_devices
            )
        pool_of.append(numbers[key])
    return np.array(pool_of), np.array(sizes)


def _own_numbers(instance: Instance, j: int) -> bytes:
    numbers = [
        instance.layer_prefill_s[j],
        instance.layer_decode_s[j],
        instance.dispatch_prefill_s[[j]],
        instance.dispatch_decode_s[[j]],
        instance.whole_dispatch_decode_s[[j]],
        instance.embedding_prefill_s[[j]],
        instance.embedding_decode_s[[j]],
        instance.head_prefill_s[[j]],
        instance.head_decode_s[[j]],
        instance.layer_bytes[j],
        instance.kv_bytes[[j]],
        instance.embedding_bytes[[j]],
        instance.head_bytes[[j]],
        instance.workspace_bytes[j],
        instance.embedding_workspace_bytes[[j]],
        instance.head_workspace_bytes[[j]],
        instance.allowed_bytes[[j]],
        instance.must_use[[j]],
        instance.width[[j]],
        instance.may_hold[:, j],
        np.array([host.members.count(j) for host in instance.hosts], dtype=np.int64),
        np.array(
            [j in device_group.members for device_group in instance.device_groups],
            dtype=bool,
        ),
    ]
    return b"".join(np.ascontiguousarray(row).tobytes() for row in numbers)


def _hops_are_swappable(instance: Instance, i: int, j: int) -> bool:
    others = np.ones(instance.num_devices, dtype=bool)
    others[[i, j]] = False
    return all(
        np.array_equal(hop[:, i, j], hop[:, j, i])
        and np.array_equal(hop[:, i, others], hop[:, j, others])
        and np.array_equal(hop[:, others, i], hop[:, others, j])
        for hop in (instance.hop_prefill_s, instance.hop_decode_s)
    )


def _between_types(hop: Floats, members: tuple[tuple[int, ...], ...]) -> Floats:
    # Within a type of one device there is no hop; its entry is never read.
    first = [group[0] for group in members]
    between = hop[:, first][:, :, first]
    for t, group in enumerate(members):
        between[:, t, t] = hop[:, group[0], group[-1]]
    return between
