"""What may hold a stage: each device, and meshes of equal devices of one node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from llmpq_jax.planner.instance.instance import DeviceGroup
from llmpq_jax.schema.cluster import NodeDevice


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionUnit:
    """One device, or a mesh of several.

    Attributes:
        node_devices: Equal devices that it is taken from, as many as `width` or more; the
            one it is named after is the first.
        width: Number of devices that it takes.
    """

    node_devices: tuple[NodeDevice, ...]
    width: int = 1

    @property
    def kind(self) -> str:
        """Kind of its devices."""
        return self.node_devices[0].device.kind

    @property
    def node_name(self) -> str:
        """Name of the node of its devices."""
        return self.node_devices[0].node.name

    @property
    def name(self) -> str:
        """Name for messages: its device, or how many of which."""
        if self.width == 1:
            return self.node_devices[0].name
        return f"a mesh of {self.width} from {self.node_devices[0].name} on"


def for_each_unit(
    units: Sequence[ExecutionUnit], ask: Callable[[str, int], Any]
) -> np.ndarray:
    """Returns an answer for each unit, asked once for each kind of device and width."""
    known = cache(ask)
    return np.array([known(unit.kind, unit.width) for unit in units])


def interchangeable_groups(
    node_devices: Iterable[NodeDevice],
) -> list[list[NodeDevice]]:
    """Groups devices of one node, kind, memory and use."""
    groups: dict[tuple[str, str, int, str], list[NodeDevice]] = {}
    for node_device in node_devices:
        device = node_device.device
        key = (node_device.node.name, device.kind, device.usable_bytes, device.use)
        groups.setdefault(key, []).append(node_device)
    return list(groups.values())


def find_execution_units(
    node_devices: Sequence[NodeDevice],
    *,
    allowed: Sequence[int],
    is_served: Callable[[str, int], bool],
    alone: Collection[str] = (),
) -> tuple[tuple[ExecutionUnit, ...], tuple[DeviceGroup, ...]]:
    """Lists single devices in their order, then the meshes that can be made of them.

    Devices of a mesh are `interchangeable_groups`; those that are `alone` are in none.
    """
    singles = [
        ExecutionUnit(node_devices=(node_device,))
        for node_device in node_devices
        if 1 in allowed or node_device.name in alone
    ]
    units, device_groups = list(singles), []
    for group in interchangeable_groups(
        node_device for node_device in node_devices if node_device.name not in alone
    ):
        kind = group[0].device.kind
        widths = [
            width
            for width in sorted(set(allowed))
            if 1 < width <= len(group) and is_served(kind, width)
        ]
        if not widths:
            continue
        equal = tuple(group)
        members = [j for j, unit in enumerate(singles) if unit.node_devices[0] in equal]
        for j in members:
            own = equal.index(units[j].node_devices[0])
            units[j] = ExecutionUnit(node_devices=equal[own:] + equal[:own])
        for width in widths:
            for _ in range(len(group) // width):
                members.append(len(units))
                units.append(ExecutionUnit(node_devices=equal, width=width))
        device_groups.append(
            DeviceGroup(members=tuple(members), num_devices=len(group))
        )
    return tuple(units), tuple(device_groups)
