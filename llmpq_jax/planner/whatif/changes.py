"""An instance with a little more of something, or without a limit, or without a device.

All but `without_device` keep the indices of axis J, so a plan stays the same plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llmpq_jax.planner.instance.instance import Instance

_SECONDS = (
    "layer_prefill_s",
    "layer_decode_s",
    "dispatch_prefill_s",
    "dispatch_decode_s",
    "whole_dispatch_decode_s",
    "embedding_prefill_s",
    "embedding_decode_s",
    "head_prefill_s",
    "head_decode_s",
)


def with_memory(instance: Instance, members: Sequence[int], more: int) -> Instance:
    """Lets devices fill so many bytes more."""
    allowed = instance.allowed_bytes.copy()
    allowed[list(members)] += more
    return replace(instance, allowed_bytes=allowed)


def without_memory_limit(instance: Instance, members: Sequence[int]) -> Instance:
    """Lets each of these devices hold the whole model at any precision, at both ends."""
    allowed = instance.allowed_bytes.copy()
    for j in members:
        workspace = (
            *instance.workspace_bytes[j],
            instance.embedding_workspace_bytes[j],
            instance.head_workspace_bytes[j],
        )
        whole = (
            instance.num_layers * (instance.layer_bytes[j].max() + instance.kv_bytes[j])
            + instance.embedding_bytes[j]
            + instance.head_bytes[j]
            + max(workspace)
            + instance.buffer_bytes
            + instance.received_bytes
        )
        allowed[j] = max(allowed[j], whole)
    return replace(instance, allowed_bytes=allowed)


def with_speed(instance: Instance, members: Sequence[int], times: float) -> Instance:
    """Makes devices so many times as fast in all they compute."""
    changes = {}
    for name in _SECONDS:
        seconds = np.array(getattr(instance, name), dtype=float)
        seconds[list(members)] /= times
        changes[name] = seconds
    return replace(instance, **changes)


def without_device(instance: Instance, j: int) -> Instance | None:
    """Takes a device away, of a pool one of its equal ones; None where nothing is left.

    Where it is by itself, or meshes are then wider than their pool, those after them
    move up on axis J.
    """
    gone, device_groups = {j}, list(instance.device_groups)
    for number, device_group in enumerate(device_groups):
        if j in device_group.members:
            # A pool has several devices, or no mesh could be made of them.
            fewer = replace(device_group, num_devices=device_group.num_devices - 1)
            device_groups[number] = fewer
            gone = {
                k for k in device_group.members if instance.width[k] > fewer.num_devices
            }
    others = [k for k in range(instance.num_devices) if k not in gone]
    if not others:
        return None
    return replace(instance, device_groups=tuple(device_groups)).with_devices(others)
