"""Which of this machine's devices stand for the kinds of a cluster."""

from __future__ import annotations

from collections.abc import Collection

import jax

from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.cluster import Cluster, Placed
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
    usable = [placed for placed in cluster.placed if placed.device.use != "never"]
    known = list(dict.fromkeys(placed.device.kind for placed in usable))
    for kind in kinds or ():
        if kind not in known:
            msg = f"cluster {cluster.name!r} has no devices of kind {kind!r} to measure: expected one of {known}"
            raise MeasurementError(msg)
    wanted = [kind for kind in known if kinds is None or kind in kinds]
    emulate_cpu_devices(placed.name for placed in usable)
    found = {}
    for kind in wanted:
        interchangeable_groups = [
            placed for placed in usable if placed.device.kind == kind
        ]
        here = {
            placed.name: device
            for placed in interchangeable_groups
            if (device := _find(placed))
        }
        if not here:
            names = ", ".join(placed.name for placed in interchangeable_groups)
            msg = f"kind {kind!r}: JAX finds none of {names} here: run `llmpq-jax profile` on a machine that has one, or measure the other kinds alone"
            raise MeasurementError(msg)
        found |= here
    return found


def _find(placed: Placed) -> JaxDevice | None:
    match = PLACED_NAME.fullmatch(placed.name)
    if match is None or match["platform"] != placed.device.platform:
        platform = placed.device.platform
        msg = f"kind {placed.device.kind!r}: device {placed.name!r}: expected a name such as {placed.node.name}/{platform}:0, with its platform {platform!r} and number"
        raise MeasurementError(msg)
    try:
        devices = jax.devices(match["platform"])
    except RuntimeError:  # JAX has no such backend here
        return None
    index = int(match["index"])
    return devices[index] if index < len(devices) else None
