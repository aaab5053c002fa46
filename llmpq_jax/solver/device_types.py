"""Which devices of an instance are interchangeable, and its numbers by such types.

Two devices are of one type where swapping them changes no number: same times, memory,
pins and shared machine, and the same hops to and from every other device. Plans then
differ by *how many* devices of each type they use, never by which. Axes: T types.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from llmpq_jax.cost.tables import Floats
from llmpq_jax.solver.instance import Instance, Integers


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class DeviceTypes:
    """Types of an instance's devices.

    Attributes:
        members: For each type its devices, as indices of axis J, in that order.
        sizes: [T] how many there are.
        must_use: [T], whether all of them have to be used.
        hop_prefill_s: [T, T] from row to column; within a type between any two.
        hop_decode_s: [T, T] likewise.
        hosts: For each host of the instance its types.
    """

    members: tuple[tuple[int, ...], ...]
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
    return DeviceTypes(
        members=members,
        sizes=np.array([len(group) for group in members]),
        must_use=instance.must_use[[group[0] for group in members]],
        hop_prefill_s=_between_types(instance.hop_prefill_s, members),
        hop_decode_s=_between_types(instance.hop_decode_s, members),
        hosts=tuple(
            tuple(t for t, group in enumerate(members) if group[0] in host.members)
            for host in instance.hosts
        ),
    )


def _own_numbers(instance: Instance, j: int) -> bytes:
    numbers = [
        instance.layer_prefill_s[j],
        instance.layer_decode_s[j],
        instance.embedding_prefill_s[[j]],
        instance.embedding_decode_s[[j]],
        instance.head_prefill_s[[j]],
        instance.head_decode_s[[j]],
        instance.workspace_bytes[j],
        instance.embedding_workspace_bytes[[j]],
        instance.head_workspace_bytes[[j]],
        instance.allowed_bytes[[j]],
        instance.must_use[[j]],
        np.array([j in host.members for host in instance.hosts], dtype=bool),
    ]
    return b"".join(np.ascontiguousarray(row).tobytes() for row in numbers)


def _hops_are_swappable(instance: Instance, i: int, j: int) -> bool:
    others = np.ones(instance.num_devices, dtype=bool)
    others[[i, j]] = False
    return all(
        hop[i, j] == hop[j, i]
        and np.array_equal(hop[i, others], hop[j, others])
        and np.array_equal(hop[others, i], hop[others, j])
        for hop in (instance.hop_prefill_s, instance.hop_decode_s)
    )


def _between_types(hop: Floats, members: tuple[tuple[int, ...], ...]) -> Floats:
    # Within a type of one device there is no hop; its entry is never read.
    return np.array(
        [[hop[m[0], n[-1] if m is n else n[0]] for n in members] for m in members]
    )
