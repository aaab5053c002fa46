"""What may hold a stage: each device, and meshes of equal devices of one node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from llmpq_jax.planner.instance.instance import DeviceGroup
from llmpq_jax.schema.cluster import NodeDevice


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionUnit:
    """One device, or a mesh of several.

    Attributes:
        node_devices: Devices it is taken from, all equal, the one it is named after first; as
            many as `width`, or more.
        width: How many of them it takes.
    """

    node_devices: tuple[NodeDevice, ...]
    width: int = 1

    @property
    def kind(self) -> str:
        """Of its devices."""
        return self.node_devices[0].device.kind

    @property
    def name(self) -> str:
        """For people: its device, or how many of which."""
        if self.width == 1:
            return self.node_devices[0].name
        return f"a mesh of {self.width} from {self.node_devices[0].name} on"


def interchangeable_groups(
    node_devices: Iterable[NodeDevice],
) -> list[list[NodeDevice]]:
    """Groups devices of one node, one kind, one memory and one pin."""
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

    Devices of a mesh are `interchangeable_groups`.

    Args:
        node_devices: Devices that may be used.
        allowed: Widths that a stage may have.
        is_served: Whether a kind of device serves layers spread over so many.
        alone: Names of devices that no mesh may have.
    """
    singles = [
        ExecutionUnit(node_devices=(node_device,))
        for node_device in node_devices
        if 1 in allowed or node_device.name in alone
    ]
    execution_units, device_groups = list(singles), []
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
        node_devices = tuple(group)
        members = [
            j
            for j, execution_unit in enumerate(singles)
            if execution_unit.node_devices[0] in node_devices
        ]
        for j in members:
            own = node_devices.index(execution_units[j].node_devices[0])
            execution_units[j] = ExecutionUnit(
                node_devices=node_devices[own:] + node_devices[:own]
            )
        for width in widths:
            for _ in range(len(group) // width):
                members.append(len(execution_units))
                execution_units.append(
                    ExecutionUnit(node_devices=node_devices, width=width)
                )
        device_groups.append(
            DeviceGroup(members=tuple(members), num_devices=len(group))
        )
    return tuple(execution_units), tuple(device_groups)
