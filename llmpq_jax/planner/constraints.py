"""Pins: decisions that the user has made; the rest is solved around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool

from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.solve_request import BitsPin, LayerPin

Use = Literal["any", "always", "never"]
Pin = LayerPin | BitsPin


def check_pins(
    pins: Sequence[Pin],
    *,
    num_layers: int,
    cluster: Cluster,
    bits: Collection[Bits],
) -> None:
    """Refuses pins that no plan can keep.

    Raises:
        ValueError: If layers are not there or pinned twice, a device is not there or may
            not be used, or a precision is not allowed.
    """
    uses = {
        node_device.name: node_device.device.use for node_device in cluster.node_devices
    }
    for pin in pins:
        if not 0 <= pin.first < pin.end <= num_layers:
            msg = f"pinned {pin}: expected FIRST:END with END behind FIRST, within 0:{num_layers}, the model's layers"
            raise ValueError(msg)
        if isinstance(pin, BitsPin):
            if pin.bits not in bits:
                msg = f"pinned {pin}: expected one of {sorted(bits)}, the bits that layers may have"
                raise ValueError(msg)
        elif pin.device not in uses:
            msg = f"pinned {pin}: expected one of {', '.join(uses)}, the cluster's devices"
            raise ValueError(msg)
        elif uses[pin.device] == "never":
            msg = f"pinned {pin}, which is to be left idle: expected one or the other"
            raise ValueError(msg)
    for number, pin in enumerate(pins):
        for other in pins[:number]:
            overlap = max(pin.first, other.first) < min(pin.end, other.end)
            if overlap and type(pin) is type(other) and _differ(pin, other):
                msg = f"pinned {other}, and {pin}: expected each layer in one of them"
                raise ValueError(msg)


def _differ(pin: Pin, other: Pin) -> bool:
    ends = {"first": 0, "end": 0}
    return replace(pin, **ends) != replace(other, **ends)


def may_hold(
    pins: Sequence[Pin], names: Sequence[str], *, num_layers: int
) -> Bool[np.ndarray, "L J"]:
    """Returns whether a layer may be on a device of that name.

    A mesh has no name here and holds no layer that is pinned to a device.
    """
    allowed = np.ones((num_layers, len(names)), dtype=bool)
    for pin in pins:
        if isinstance(pin, LayerPin):
            allowed[pin.first : pin.end] &= np.array(names) == pin.device
    return allowed


def may_have(
    pins: Sequence[Pin], bits: Sequence[Bits], *, num_layers: int
) -> Bool[np.ndarray, "L B"]:
    """Returns whether a layer may have these bits."""
    allowed = np.ones((num_layers, len(bits)), dtype=bool)
    for pin in pins:
        if isinstance(pin, BitsPin):
            allowed[pin.first : pin.end] &= np.array(bits) == pin.bits
    return allowed


def with_use(cluster: Cluster, uses: Mapping[str, Use]) -> Cluster:
    """Returns a cluster some of whose devices have another `use`.

    Args:
        cluster: Cluster with the devices.
        uses: New use of some devices, by full name.

    Raises:
        ValueError: If one of them is not there.
    """
    names = [node_device.name for node_device in cluster.node_devices]
    for name in uses:
        if name not in names:
            msg = f"device {name!r} is not in the cluster: expected one of {', '.join(names)}"
            raise ValueError(msg)
    nodes = tuple(
        replace(
            node,
            devices=tuple(
                replace(device, use=uses.get(f"{node.name}/{device.name}", device.use))
                for device in node.devices
            ),
        )
        for node in cluster.nodes
    )
    return replace(cluster, nodes=nodes)
