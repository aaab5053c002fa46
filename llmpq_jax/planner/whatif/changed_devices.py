"""Devices that a change is made to: one of each type, or all equal ones of a group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.search.search_result import Incumbent


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedDevices:
    """Devices that a change is made to.

    Attributes:
        members: The devices, as indices of axis J.
        devices: Their names, and those of interchangeable devices.
        text: Their name in messages.
        memory_bytes: Memory of each.
        is_used: Whether the plan uses one of them.
        must_use: Whether the user wants them used.
    """

    members: tuple[int, ...]
    devices: tuple[str, ...]
    text: str
    memory_bytes: int
    is_used: bool
    must_use: bool


def devices_to_change(problem: Problem, plan: Incumbent) -> Iterator[ChangedDevices]:
    """Yields one device of each type, a used one if there is one, and whole groups."""
    instance, units = plan.instance, problem.execution_units
    used = set(plan.candidate.devices)
    group_of = {j: group for group in instance.device_groups for j in group.members}
    seen: set[tuple[int, ...]] = set()
    for equal in device_types(instance).members:
        group = group_of.get(equal[0])
        if group is None:
            members = (min(equal, key=lambda j: (j not in used, j)),)
            devices = tuple(units[j].node_devices[0].name for j in equal)
            text = units[members[0]].name
            if len(equal) > 1:
                text += f" (one of {len(equal)} equal ones)"
        else:
            members = group.members
            node_devices = units[members[0]].node_devices
            devices = tuple(sorted(node_device.name for node_device in node_devices))
            text = f"each of {', '.join(devices)}"
        if members in seen:
            continue
        seen.add(members)
        yield ChangedDevices(
            members=members,
            devices=devices,
            text=text,
            memory_bytes=units[members[0]].node_devices[0].device.memory_bytes,
            is_used=bool(used & set(members)),
            must_use=bool(instance.devices.must_use[list(members)].any()),
        )
