"""This machine's devices of the kinds in a cluster file."""

from __future__ import annotations

from collections.abc import Collection

import jax

from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster, NodeDevice
from llmpq_jax.stage.emulated_devices import PLACED_NAME, JaxDevice, emulate_cpu_devices


def local_devices(
    cluster: Cluster, kinds: Collection[str] | None = None
) -> dict[str, JaxDevice]:
    """Returns the devices of some kinds, or of all, by their full names.

    Devices are looked up by platform and number alone, so that a cluster of several
    machines of one model can be measured on any of them. One device of a kind is
    enough; others that are not here are left out.

    Raises:
        MeasurementError: If a kind is not in the cluster, or none of its devices is here.
    """
    usable = [each for each in cluster.node_devices if each.device.use != "never"]
    known = list(dict.fromkeys(each.device.kind for each in usable))
    for kind in kinds or ():
        if kind not in known:
            msg = f"cluster {cluster.name!r} has no devices of kind {kind!r} to measure: expected one of {known}"
            raise MeasurementError(msg)
    wanted = [kind for kind in known if kinds is None or kind in kinds]
    emulate_cpu_devices(each.name for each in usable)
    found = {}
    for kind in wanted:
        of_kind = [each for each in usable if each.device.kind == kind]
        here = {each.name: device for each in of_kind if (device := _find(each))}
        if not here:
            names = ", ".join(each.name for each in of_kind)
            msg = f"kind {kind!r}: JAX finds none of {names} here: run `llmpq-jax profile` on a machine that has one, or measure the other kinds alone"
            raise MeasurementError(msg)
        found |= here
    return found


def _find(node_device: NodeDevice) -> JaxDevice | None:
    match = PLACED_NAME.fullmatch(node_device.name)
    if match is None or match["platform"] != node_device.device.platform:
        platform = node_device.device.platform
        msg = f"kind {node_device.device.kind!r}: device {node_device.name!r}: expected a name such as {node_device.node.name}/{platform}:0, with its platform {platform!r} and number"
        raise MeasurementError(msg)
    try:
        devices = jax.devices(match["platform"])
    except RuntimeError:  # JAX has no such backend here
        return None
    index = int(match["index"])
    return devices[index] if index < len(devices) else None
