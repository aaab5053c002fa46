"""Which of this machine's devices stand for the kinds of a cluster."""

from __future__ import annotations

from collections.abc import Collection

import jax

from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.stage.emulated_devices import PLACED_NAME, JaxDevice, emulate_cpu_devices


def local_devices(
    cluster: Cluster, kinds: Collection[str] | None = None
) -> dict[str, JaxDevice]:
    """Finds the devices of some kinds, or of all, by their full names.

    Devices are looked up by platform and number alone, so that a cluster of several
    machines of one make can be measured on any of them. One device of a kind is
    enough; others that are not here are left out.

    Raises:
        MeasurementError: A kind is not in the cluster, or none of its devices is here.
    """
    usable = [
        node_devices
        for node_devices in cluster.node_devices
        if node_devices.device.use != "never"
    ]
    known = list(dict.fromkeys(node_devices.device.kind for node_devices in usable))
    for kind in kinds or ():
        if kind not in known:
            msg = f"cluster {cluster.name!r} has no devices of kind {kind!r} to measure: expected one of {known}"
            raise MeasurementError(msg)
    wanted = [kind for kind in known if kinds is None or kind in kinds]
    emulate_cpu_devices(node_devices.name for node_devices in usable)
    found = {}
    for kind in wanted:
        interchangeable_groups = [
            node_devices for node_devices in usable if node_devices.device.kind == kind
        ]
        here = {
            node_devices.name: device
            for node_devices in interchangeable_groups
            if (device := _find(node_devices))
        }
        if not here:
            names = ", ".join(
                node_devices.name for node_devices in interchangeable_groups
            )
            msg = f"kind {kind!r}: JAX finds none of {names} here: run `llmpq-jax profile` on a machine that has one, or measure the other kinds alone"
            raise MeasurementError(msg)
        found |= here
    return found


def _find(node_devices: NodeDevice) -> JaxDevice | None:
    match = PLACED_NAME.fullmatch(node_devices.name)
    if match is None or match["platform"] != node_devices.device.platform:
        platform = node_devices.device.platform
        msg = f"kind {node_devices.device.kind!r}: device {node_devices.name!r}: expected a name such as {node_devices.node.name}/{platform}:0, with its platform {platform!r} and number"
        raise MeasurementError(msg)
    try:
        devices = jax.devices(match["platform"])
    except RuntimeError:  # JAX has no such backend here
        return None
    index = int(match["index"])
    return devices[index] if index < len(devices) else None
