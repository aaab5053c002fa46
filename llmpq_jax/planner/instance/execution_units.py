"""What may hold a stage: each device, and meshes of equal devices of one node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from llmpq_jax.planner.instance.instance import DeviceGroup
from llmpq_jax.schema.cluster import Placed


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionUnit:
    """One device, or a mesh of several.

    Attributes:
        places: Devices it is taken from, all equal, the one it is named after first; as
            many as `width`, or more.
        width: How many of them it takes.
    """

    places: tuple[Placed, ...]
    width: int = 1

    @property
    def kind(self) -> str:
        """Of its devices."""
        return self.places[0].device.kind

    @property
    def name(self) -> str:
        """For people: its device, or how many of which."""
        if self.width == 1:
            return self.places[0].name
        return f"a mesh of {self.width} from {self.places[0].name} on"


def interchangeable_groups(placed: Iterable[Placed]) -> list[list[Placed]]:
    """Groups devices of one node, one kind, one memory and one pin."""
    groups: dict[tuple[str, str, int, str], list[Placed]] = {}
    for place in placed:
        device = place.device
        key = (place.node.name, device.kind, device.usable_bytes, device.use)
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def find_execution_units(
    placed: Sequence[Placed],
    *,
    allowed: Sequence[int],
    is_served: Callable[[str, int], bool],
    alone: Collection[str] = (),
) -> tuple[tuple[ExecutionUnit, ...], tuple[DeviceGroup, ...]]:
    """Lists single devices in their order, then the meshes that can be made of them.

    Devices of a mesh are `interchangeable_groups`.

    Args:
        placed: Devices that may be used.
        allowed: Widths that a stage may have.
        is_served: Whether a kind of device serves layers spread over so many.
        alone: Names of devices that no mesh may have.
    """
    singles = [
        ExecutionUnit(places=(place,))
        for place in placed
        if 1 in allowed or place.name in alone
    ]
    execution_units, device_groups = list(singles), []
    for group in interchangeable_groups(
        place for place in placed if place.name not in alone
    ):
        kind = group[0].device.kind
        widths = [
            width
            for width in sorted(set(allowed))
            if 1 < width <= len(group) and is_served(kind, width)
        ]
        if not widths:
            continue
        places = tuple(group)
        members = [
            j
            for j, execution_unit in enumerate(singles)
            if execution_unit.places[0] in places
        ]
        for j in members:
            own = places.index(execution_units[j].places[0])
            execution_units[j] = ExecutionUnit(places=places[own:] + places[:own])
        for width in widths:
            for _ in range(len(group) // width):
                members.append(len(execution_units))
                execution_units.append(ExecutionUnit(places=places, width=width))
        device_groups.append(
            DeviceGroup(members=tuple(members), num_devices=len(group))
        )
    return tuple(execution_units), tuple(device_groups)
