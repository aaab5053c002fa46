"""Numbers of the devices that may hold a stage, with their axes and units declared once.

A field's annotation names its axes: P phases (prefill, decode), L layers, J devices, B
precisions; a name that ends in `_s` is in seconds. What is done to all numbers at once
follows from that: taking some devices, comparing two, making one faster. Nothing lists
the fields a second time, so none can be forgotten: a number that a comparison ignored would
make unequal devices interchangeable, and the certificate wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, get_type_hints

import numpy as np
from jaxtyping import Bool, Float, Int

# Indices on axis P, in the order of `measurements.PHASES`.
PREFILL, DECODE = range(2)
_DEVICES = "J"


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceNumbers:
    """What each device on axis J takes and holds.

    A device is whatever may hold a stage: one device, or a mesh of several equal ones of
    a node, whose seconds are the mesh's and whose bytes are those on each of its devices.
    Infinite seconds mean that it was not measured, and so is not supported there. Seconds
    are those of one prefill micro-batch, and of one decode step of one micro-batch.

    Attributes:
        layer_s: Seconds of one layer, [P, J, B].
        dispatch_s: Fixed dispatch overhead of one stage call in seconds, [P, J].
        whole_dispatch_s: Dispatch overhead of a stage that holds the whole model, which
            takes several decode steps in one call, [P, J]; at most `dispatch_s`.
        embedding_s: Seconds of the embedding, on the first stage, [P, J].
        head_s: Seconds of the head, on the last stage, [P, J].
        layer_bytes: Bytes of one layer's weights, [J, B].
        kv_bytes: Bytes of one layer's cache, [J].
        embedding_bytes: Bytes of the embedding, on the first stage, [J].
        head_bytes: Bytes of the head, on the last stage, [J].
        workspace_bytes: Workspace of one layer, [J, B]; a stage needs the largest of its
            layers', embedding's and head's.
        embedding_workspace_bytes: Workspace of the embedding, [J].
        head_workspace_bytes: Workspace of the head, [J].
        allowed_bytes: Bytes that a plan may fill, [J].
        width: Number of devices of a mesh, 1 for a single device, [J].
        must_use: Whether a device may not stay idle; in a device group, whether none of
            the group's devices may, [J].
        may_hold: Whether a layer may be on a device, [L, J].
    """

    layer_s: Float[np.ndarray, "P J B"]
    dispatch_s: Float[np.ndarray, "P J"]
    whole_dispatch_s: Float[np.ndarray, "P J"]
    embedding_s: Float[np.ndarray, "P J"]
    head_s: Float[np.ndarray, "P J"]
    layer_bytes: Int[np.ndarray, "J B"]
    kv_bytes: Int[np.ndarray, " J"]
    embedding_bytes: Int[np.ndarray, " J"]
    head_bytes: Int[np.ndarray, " J"]
    workspace_bytes: Int[np.ndarray, "J B"]
    embedding_workspace_bytes: Int[np.ndarray, " J"]
    head_workspace_bytes: Int[np.ndarray, " J"]
    allowed_bytes: Int[np.ndarray, " J"]
    width: Int[np.ndarray, " J"]
    must_use: Bool[np.ndarray, " J"]
    may_hold: Bool[np.ndarray, "L J"]

    @cached_property
    def supported(self) -> Bool[np.ndarray, "J B"]:
        """Whether a device serves layers at these bits."""
        return np.isfinite(self.layer_s[PREFILL])

    @cached_property
    def may_be_first(self) -> Bool[np.ndarray, " J"]:
        """Whether a device can embed."""
        return np.isfinite(self.embedding_s[PREFILL])

    @cached_property
    def may_be_last(self) -> Bool[np.ndarray, " J"]:
        """Whether a device can hold the head."""
        return np.isfinite(self.head_s[PREFILL])

    def take(self, devices: Sequence[int]) -> DeviceNumbers:
        """Returns the numbers of these devices, in this order."""
        return DeviceNumbers(
            **{
                name: take_devices(getattr(self, name), axes, devices)
                for name, axes in axes_of(DeviceNumbers).items()
            }
        )

    def signature(self, device: int, *, without: Collection[str] = ()) -> bytes:
        """Returns the numbers of one device; equal for two devices if all are equal.

        Fields that are named in `without` are left out.
        """
        return b"".join(
            np.ascontiguousarray(
                take_devices(getattr(self, name), axes, [device])
            ).tobytes()
            for name, axes in axes_of(DeviceNumbers).items()
            if name not in without
        )

    def sped_up(self, devices: Sequence[int], factor: float) -> DeviceNumbers:
        """Returns the numbers if these devices computed `factor` times as fast."""
        changes = {}
        for name, axes in axes_of(DeviceNumbers).items():
            if name.endswith("_s"):
                seconds = np.array(getattr(self, name), dtype=float)
                own = (slice(None),) * axes.index(_DEVICES) + (list(devices),)
                seconds[own] /= factor
                changes[name] = seconds
        return replace(self, **changes)


@cache
def axes_of(record: type) -> dict[str, tuple[str, ...]]:
    """Returns the axes of each array field of a record, as its annotation names them."""
    hints = get_type_hints(record)
    return {
        name: tuple(hint.dim_str.split())
        for name, hint in hints.items()
        if hasattr(hint, "dim_str")
    }


def take_devices(
    values: np.ndarray, axes: Sequence[str], devices: Sequence[int]
) -> np.ndarray:
    """Returns an array with some devices only, on every axis that is one of devices."""
    taken: Any = values
    for number, axis in enumerate(axes):
        if axis == _DEVICES:
            taken = np.take(taken, list(devices), axis=number)
    return taken
