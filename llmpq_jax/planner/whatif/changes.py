"""Changed instances: with more memory or speed, without a limit, or without a device.

All but `without_device` keep the indices of axis J, so a plan stays the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmpq_jax.planner.instance.instance import Instance


def with_memory(instance: Instance, members: Sequence[int], more: int) -> Instance:
    """Lets devices fill this many bytes more."""
    allowed = instance.devices.allowed_bytes.copy()
    allowed[list(members)] += more
    return _with_allowed_bytes(instance, allowed)


def without_memory_limit(instance: Instance, members: Sequence[int]) -> Instance:
    """Lets each of these devices hold the whole model, embedding and head included."""
    d = instance.devices
    allowed = d.allowed_bytes.copy()
    for j in members:
        workspace = (
            *d.workspace_bytes[j],
            d.embedding_workspace_bytes[j],
            d.head_workspace_bytes[j],
        )
        whole = (
            instance.num_layers * (d.layer_bytes[j].max() + d.kv_bytes[j])
            + d.embedding_bytes[j]
            + d.head_bytes[j]
            + max(workspace)
            + instance.buffer_bytes
            + instance.received_bytes
        )
        allowed[j] = max(allowed[j], whole)
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
