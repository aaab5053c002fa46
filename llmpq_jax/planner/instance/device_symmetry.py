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
        pool: [T] which pool that is.
        sizes: [Q] devices in a pool.
        must_use: [Q], whether all of them have to be used.
        hop_prefill_s: [O, T, T] from row to column; within a type between any two.
        hop_decode_s: [O, T, T] likewise.
        hosts: For each host of the instance its types, each as often as it is wide.
    """

    members: tuple[tuple[int, ...], ...]
    widths: Integers
    pool: Integers
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
    def num_pools(self) -> int:
        """Q."""
        return len(self.sizes)

    def may_follow(self, t: int, k: int) -> bool:
        """Whether a plan may have a device of each of these types, beside each other."""
        taken = self.widths[t] + self.widths[k]
        return bool(self.pool[t] != self.pool[k] or taken <= self.sizes[self.pool[t]])

    def by_pool(self, values: Floats) -> Floats:
        """[Q]: sums what types have, each times its width."""
        total = np.zeros(self.num_pools)
        np.add.at(total, self.pool, self.widths * values)
        return total


def device_types(instance: Instance) -> DeviceTypes:
    """Finds the types, in the order of their first devices."""
    groups: list[list[int]] = []
    alike: dict[bytes, list[list[int]]] = defaultdict(list)
    for j in range(instance.num_devices):
        candidates = alike[_own_numbers(instance, j)]
        group = next(
            (g for g in candidates if _hops_are_swappable(instance, g[0], j)), None
        )
        if group is None:
            group = []
            groups.append(group)
            candidates.append(group)
        group.append(j)
    members = tuple(tuple(group) for group in groups)
    pool, sizes = _pools(instance, members)
    must_use = np.zeros(len(sizes), dtype=bool)
    must_use[pool] = instance.must_use[[group[0] for group in members]]
    return DeviceTypes(
        members=members,
        widths=instance.width[[group[0] for group in members]],
        pool=pool,
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
    shared = {j: pool for pool in instance.pools for j in pool.members}
    numbers: dict[tuple[int, ...], int] = {}
    pool_of, sizes = [], []
    for group in members:
        pool = shared.get(group[0])
        key = group if pool is None else pool.members
        if key not in numbers:
            numbers[key] = len(sizes)
            sizes.append(len(group) if pool is None else pool.num_devices)
        pool_of.append(numbers[key])
    return np.array(pool_of), np.array(sizes)


def _own_numbers(instance: Instance, j: int) -> bytes:
    numbers = [
        instance.layer_prefill_s[j],
        instance.layer_decode_s[j],
        instance.call_prefill_s[[j]],
        instance.call_decode_s[[j]],
        instance.whole_call_decode_s[[j]],
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
        np.array([j in pool.members for pool in instance.pools], dtype=bool),
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
