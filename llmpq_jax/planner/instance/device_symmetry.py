"""Which devices of an instance are interchangeable, and its numbers by device types.

Two devices are of one type if swapping them changes no plan and no cost: the same stages
fit both, their other numbers are equal, and so are the machine they share and their hops to
and from every other device. Plans then differ by *how many* devices of each type they use, never by which. Types whose
meshes may be made of the same devices share a device group; any other type is a group of
its own. Axes: T types, G groups, and those of `instance`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.instance.stage_bytes import num_fitting_stages


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class DeviceTypes:
    """Types of an instance's devices.

    Attributes:
        members: Devices of each type, as indices of axis J: those of more memory first,
            then in that order.
        widths: Devices that a stage of the type takes from its group, [T].
        group_of: Group of each type, [T].
        group_sizes: Number of devices of each group, [G].
        must_use: Whether all devices of a group have to be used, [G].
        hop_s: Seconds of a hop from one type to another; within a type between any two of
            its devices, [P, O, T, T].
        hosts: Types on each host of the instance, each as often as it is wide.
    """

    members: tuple[tuple[int, ...], ...]
    widths: Int[np.ndarray, " T"]
    group_of: Int[np.ndarray, " T"]
    group_sizes: Int[np.ndarray, " G"]
    must_use: Bool[np.ndarray, " G"]
    hop_s: Float[np.ndarray, "P O T T"]
    hosts: tuple[tuple[int, ...], ...]

    @property
    def first(self) -> list[int]:
        """One device of each type, as indices of axis J."""
        return [members[0] for members in self.members]

    @property
    def num_types(self) -> int:
        """Number of types T."""
        return len(self.members)

    @property
    def num_groups(self) -> int:
        """Number of groups G."""
        return len(self.group_sizes)

    def may_follow(self, t: int, k: int) -> bool:
        """Whether one plan may have a device of each of these types."""
        taken = self.widths[t] + self.widths[k]
        return bool(
            self.group_of[t] != self.group_of[k]
            or taken <= self.group_sizes[self.group_of[t]]
        )

    def by_group(self, values: Float[np.ndarray, " T"]) -> Float[np.ndarray, " G"]:
        """Returns each group's sum over its types, each times its width."""
        total = np.zeros(self.num_groups)
        np.add.at(total, self.group_of, self.widths * values)
        return total


# All parts of a search ask for the types of the same few dozen subproblems.
@lru_cache(maxsize=256)
def device_types(instance: Instance) -> DeviceTypes:
    """Finds the types, in the order of their first devices."""
    allowed = instance.devices.allowed_bytes
    types: list[list[int]] = []
    types_with: dict[bytes, list[list[int]]] = defaultdict(list)
    for j, signature in enumerate(signatures(instance)):
        candidates = types_with[signature]
        for own in candidates:
            if _hops_are_equal(instance, own[0], j):
                own.append(j)
                break
        else:
            types.append([j])
            candidates.append(types[-1])
    members = tuple(tuple(sorted(own, key=lambda j: -allowed[j])) for own in types)
    first = [type_[0] for type_ in members]
    group_of, group_sizes = _groups(instance, members)
    must_use = np.zeros(len(group_sizes), dtype=bool)
    must_use[group_of] = instance.devices.must_use[first]
    return DeviceTypes(
        members=members,
        widths=instance.devices.width[first],
        group_of=group_of,
        group_sizes=group_sizes,
        must_use=must_use,
        hop_s=_between_types(instance.hop_s, members),
        hosts=tuple(
            tuple(t for t, j in enumerate(first) for _ in range(host.members.count(j)))
            for host in instance.hosts
        ),
    )


def signatures(instance: Instance) -> list[bytes]:
    """Returns for each device what stages may be on it and what they cost, hops apart.

    Free memory differs by a few bytes even between equal devices, and is counted by what
    fits into it; not at all if the instance merges it.
    """
    without = ("allowed_bytes",)
    found = [
        instance.signature(j, without=without) for j in range(instance.num_devices)
    ]
    if instance.merges_memory:
        return found
    equal: dict[bytes, list[int]] = defaultdict(list)
    for j, signature in enumerate(found):
        equal[signature].append(j)
    for own in equal.values():
        if len(np.unique(instance.devices.allowed_bytes[own])) > 1:
            fitting = num_fitting_stages(instance, own)
            for j, numbers in zip(own, fitting, strict=True):
                found[j] += numbers.tobytes()
    return found


def _groups(
    instance: Instance, members: tuple[tuple[int, ...], ...]
) -> tuple[Integers, Integers]:
    """Numbers the groups in the order of their first types; [T] which, [G] their sizes."""
    shared = {j: group for group in instance.device_groups for j in group.members}
    numbers: dict[tuple[int, ...], int] = {}
    group_of, sizes = [], []
    for own in members:
        group = shared.get(own[0])
        key = own if group is None else group.members
        if key not in numbers:
            numbers[key] = len(sizes)
            sizes.append(len(own) if group is None else group.num_devices)
        group_of.append(numbers[key])
    return np.array(group_of), np.array(sizes)


def _hops_are_equal(instance: Instance, i: int, j: int) -> bool:
    """Whether swapping two devices changes no hop; a device has none to itself."""
    hop_s, others = instance.hop_s, np.ones(instance.num_devices, dtype=bool)
    others[[i, j]] = False
    return (
        np.array_equal(hop_s[..., i, j], hop_s[..., j, i])
        and np.array_equal(hop_s[..., i, others], hop_s[..., j, others])
        and np.array_equal(hop_s[..., others, i], hop_s[..., others, j])
    )


def _between_types(hop_s: Floats, members: tuple[tuple[int, ...], ...]) -> Floats:
    # Within a type of one device there is no hop; its entry is never read.
    first = [own[0] for own in members]
    between = hop_s[..., first, :][..., first]
    for t, own in enumerate(members):
        between[..., t, t] = hop_s[..., own[0], own[-1]]
    return between
