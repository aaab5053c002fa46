"""Changed instances: with more memory or speed, without a limit, or without a device.

A change is made to one device of each type, or to all equal ones of a group.

All but `without_device` keep the indices of axis J, so a plan stays the same plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.search.search_result import Incumbent


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedDevices:
    """Devices that a change is made to, as indices of axis J, and their names.

    `devices` are names of interchangeable devices too; `text` is for messages.
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
    for equal in _equal_devices(instance):
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


def _equal_devices(instance: Instance) -> Iterator[tuple[int, ...]]:
    """Yields the devices of each type that have the same memory.

    Those that differ in a few bytes may no longer be of one type with more memory.
    """
    allowed = instance.devices.allowed_bytes
    for own in device_types(instance).members:
        for size in dict.fromkeys(allowed[list(own)].tolist()):
            yield tuple(j for j in own if allowed[j] == size)


def with_memory(instance: Instance, members: Sequence[int], more: int) -> Instance:
    """Lets devices fill this many bytes more."""
    allowed = instance.devices.allowed_bytes.copy()
    allowed[list(members)] += more
    return _with_allowed_bytes(instance, allowed)


def without_memory_limit(instance: Instance, members: Sequence[int]) -> Instance:
    """Lets each of these devices hold the whole model, embedding and head included."""
    d = instance.devices
    workspaces = (d.embedding_workspace_bytes, d.head_workspace_bytes)
    whole = (
        instance.num_layers * (d.layer_bytes.max(axis=1) + d.kv_bytes)
        + d.embedding_bytes
        + d.head_bytes
        + np.max([*d.workspace_bytes.T, *workspaces], axis=0)
        + instance.buffer_bytes
        + instance.received_bytes
    )
    allowed, own = d.allowed_bytes.copy(), list(members)
    allowed[own] = np.maximum(allowed, whole)[own]
    return _with_allowed_bytes(instance, allowed)


def _with_allowed_bytes(instance: Instance, allowed: np.ndarray) -> Instance:
    devices = replace(instance.devices, allowed_bytes=allowed)
    return replace(instance, devices=devices)


def with_speed(instance: Instance, members: Sequence[int], factor: float) -> Instance:
    """Makes devices this many times as fast in all they compute."""
    return replace(instance, devices=instance.devices.sped_up(members, factor))


def without_device(instance: Instance, j: int) -> Instance | None:
    """Removes a device, of a device group one of its equal ones; None if none is left.

    A device that is its own group is removed from axis J, and so are meshes that are then
    wider than their group; those after them move up.
    """
    removed, device_groups = {j}, list(instance.device_groups)
    for number, group in enumerate(device_groups):
        if j in group.members:
            # A group has several devices, or no mesh could be made of them.
            fewer = replace(group, num_devices=group.num_devices - 1)
            device_groups[number] = fewer
            width = instance.devices.width
            removed = {k for k in group.members if width[k] > fewer.num_devices}
    others = [k for k in range(instance.num_devices) if k not in removed]
    if not others:
        return None
    return replace(instance, device_groups=tuple(device_groups)).with_devices(others)
