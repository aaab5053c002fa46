"""Pins: decisions that the user has made; the rest is solved around them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool

from llmpq_jax.schema.cluster import Cluster, Device
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
    uses = {own.name: own.device.use for own in cluster.node_devices}
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
            differ = replace(pin, first=0, end=0) != replace(other, first=0, end=0)
            if overlap and type(pin) is type(other) and differ:
                msg = f"pinned {other}, and {pin}: expected each layer in one of them"
                raise ValueError(msg)


def allowed_by(
    pins: Sequence[Pin], choices: Sequence[str] | Sequence[Bits], *, num_layers: int
) -> Bool[np.ndarray, "L choices"]:
    """Returns whether a layer may be on devices of these names, or have these bits.

    A mesh has no name here and holds no layer that is pinned to a device.
    """
    allowed = np.ones((num_layers, len(choices)), dtype=bool)
    for pin in pins:
        pinned = pin.device if isinstance(pin, LayerPin) else pin.bits
        if isinstance(pinned, type(choices[0])):
            allowed[pin.first : pin.end] &= np.array(choices) == pinned
    return allowed


def with_use(cluster: Cluster, uses: Mapping[str, Use]) -> Cluster:
    """Returns a cluster some of whose devices, by full name, have another `use`.

    Raises:
        ValueError: If one of them is not there.
    """
    names = [node_device.name for node_device in cluster.node_devices]
    for name in uses:
        if name not in names:
            msg = f"device {name!r} is not in the cluster: expected one of {', '.join(names)}"
            raise ValueError(msg)
    return with_devices(
        cluster, lambda name, device: replace(device, use=uses.get(name, device.use))
    )


def with_devices(cluster: Cluster, change: Callable[[str, Device], Device]) -> Cluster:
    """Returns a cluster with changed devices; `change` receives each one's full name."""
    nodes = tuple(
        replace(
            node,
            devices=tuple(
                change(f"{node.name}/{device.name}", device) for device in node.devices
            ),
        )
        for node in cluster.nodes
    )
    return replace(cluster, nodes=nodes)
