"""Whom a change is made to: one device, or all the equal ones that meshes are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.search.search_result import Incumbent


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Devices that a change is made to.

    Attributes:
        members: As indices of axis J.
        devices: Their names, and those of devices alike.
        text: For people.
        memory_bytes: Of each.
        is_used: By the plan.
        must_use: Whether a person wants them used.
    """

    members: tuple[int, ...]
    devices: tuple[str, ...]
    text: str
    memory_bytes: int
    is_used: bool
    must_use: bool


def find_groups(problem: Problem, plan: Incumbent) -> Iterator[Group]:
    """One device of each type, a used one where there is one; whole pools."""
    instance, used = plan.instance, set(plan.candidate.devices)
    device_groups = {
        j: device_group
        for device_group in instance.device_groups
        for j in device_group.members
    }
    seen: set[tuple[int, ...]] = set()
    for interchangeable_groups in device_types(instance).members:
        device_group = device_groups.get(interchangeable_groups[0])
        if device_group is None:
            ordered = sorted(interchangeable_groups, key=lambda j: j not in used)
            members, execution_unit = (ordered[0],), problem.execution_units[ordered[0]]
            devices = tuple(
                problem.execution_units[j].node_devices[0].name
                for j in interchangeable_groups
            )
            text = execution_unit.name
            if len(interchangeable_groups) > 1:
                text += f" (one of {len(interchangeable_groups)} alike)"
        else:
            members, execution_unit = (
                device_group.members,
                problem.execution_units[device_group.members[0]],
            )
            devices = tuple(
                sorted(node_device.name for node_device in execution_unit.node_devices)
            )
            text = f"each of {', '.join(devices)}"
        if members in seen:
            continue
        seen.add(members)
        yield Group(
            members=members,
            devices=devices,
            text=text,
            memory_bytes=execution_unit.node_devices[0].device.memory_bytes,
            is_used=bool(used & set(members)),
            must_use=bool(instance.must_use[list(members)].any()),
        )
