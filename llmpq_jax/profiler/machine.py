"""What this machine is: its devices, their memory and links, and those of a cluster."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
import psutil

from llmpq_jax.arch.catalogue import read_catalogue
from llmpq_jax.costmodel.interpolation import fit_interpolated_latency
from llmpq_jax.costmodel.links import LINK_FEATURES
from llmpq_jax.errors import ClusterError, MeasurementError
from llmpq_jax.profiler.links import send
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.schema.cluster import (
    Cluster,
    Device,
    Link,
    Node,
    NodeDevice,
    Platform,
)
from llmpq_jax.stage.emulated_devices import PLACED_NAME, JaxDevice, emulate_cpu_devices
from llmpq_jax.stage.hardware import num_cores, processor_model
from llmpq_jax.stage.sharding import StageSharding
from llmpq_jax.units import MIB

# Divides a CPU's free memory into the part that is left to other processes.
_RESERVED = 10
_LINK_BYTES = (1 << 12, 1 << 16, 1 << 20, 1 << 24)
_STOPWATCH = Stopwatch()
# Words that make another device of the same number.
_VARIANTS = {"Ti", "SUPER", "Laptop", "Max", "Pro", "Ultra"}
# Words of a driver's device name that kinds are named without.
_VENDORS = {"NVIDIA", "Tesla", "GeForce", "Processor", "CPU", "R", "TM"}


def describe_machine(
    *, node: str, num_cpu_devices: int | None = None, measures_links: bool = False
) -> Cluster:
    """Returns the devices JAX finds here, with the memory that is free now.

    Args:
        node: Name of the machine.
        num_cpu_devices: Number of emulated CPU devices that share processor and memory
            equally; None for one where there is no accelerator, else none.
        measures_links: Whether to time transfers between neighbouring devices, both ways.

    Raises:
        ClusterError: If there is nothing to list, fewer CPU devices than asked for, or
            no pair of devices to measure a link between.
    """
    emulate_cpu_devices(f"{node}/cpu:{index}" for index in range(num_cpu_devices or 1))
    accelerators = [each for each in jax.devices() if each.platform != "cpu"]
    wanted = num_cpu_devices
    if wanted is None:
        wanted = 0 if accelerators else 1
    processors = jax.devices("cpu")[:wanted]
    if len(processors) < wanted:
        msg = f"--cpu-devices {wanted}: JAX has {len(processors)} here: expected at most that number, or JAX_NUM_CPU_DEVICES unset"
        raise ClusterError(msg)
    found = [*accelerators, *processors]
    if not found:
        msg = f"node {node!r}: no accelerator, and no CPU devices asked for: expected one device; leave --cpu-devices out"
        raise ClusterError(msg)
    if measures_links and len(found) < 2:
        msg = f"node {node!r}: one device: expected two or more to measure links between; leave --links out"
        raise ClusterError(msg)
    # Read once: the planner is faster if devices are equal.
    share_bytes = free_bytes() // max(1, wanted)
    machine = Node(
        name=node,
        devices=(
            *(_accelerator(each) for each in accelerators),
            *(_emulated(each, share_bytes) for each in processors),
        ),
        cores=num_cores(),
    )
    links = (_link(node, found),) if measures_links else ()
    return Cluster(name=f"devices of {node}", nodes=(machine,), links=links)


def kind_name(device_kind: str) -> str:
    """Returns a kind's name in the catalogue, or else the driver's, shortened."""
    words = re.findall(r"[A-Za-z0-9]+", device_kind)
    sizes = {word.removesuffix("GB") for word in words}
    known = [
        kind.name
        for kind in read_catalogue().kinds
        if sizes.issuperset(parts := set(kind.name.split("-")))
        # An RTX 4070 Ti is no RTX 4070.
        and not _VARIANTS & (sizes - parts)
    ]
    if known:
        return max(known, key=len)
    return "-".join(word for word in words if word not in _VENDORS) or device_kind


def free_bytes() -> int:
    """Returns the bytes that processes here may still take, within a container's limit."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = (group / "memory.current").read_text(encoding="utf-8").strip()
    except OSError:  # no container, or an older kernel
        return free
    return min(free, int(limit) - int(used)) if limit.isdecimal() else free


def _accelerator(device: JaxDevice) -> Device:
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        msg = f"device {device}: its driver does not report its memory: write the cluster file by hand, see docs/strategy-format.md"
        raise ClusterError(msg)
    platforms: dict[str, Platform] = {"gpu": "cuda", "cuda": "cuda", "rocm": "rocm"}
    if device.platform not in platforms:
        msg = f"device {device}: platform {device.platform!r}: expected one of {sorted(platforms)}"
        raise ClusterError(msg)
    served = platforms[device.platform]
    # JAX may take this much; the rest is the driver's and other programs'.
    free = stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return Device(
        name=f"{served}:{device.id}",
        kind=kind_name(device.device_kind),
        platform=served,
        memory_bytes=_whole_mib(free),
    )


def _emulated(device: JaxDevice, share_bytes: int) -> Device:
    return Device(
        name=f"cpu:{device.id}",
        kind=f"cpu-{kind_name(processor_model())}",
        platform="cpu",
        memory_bytes=_whole_mib(share_bytes),
        reserve_bytes=share_bytes // _RESERVED // MIB * MIB,
    )


def _whole_mib(num_bytes: int) -> int:
    return max(1, num_bytes // MIB) * MIB


def _link(node: str, devices: Sequence[JaxDevice]) -> Link:
    """Times neighbours both ways and returns the slowest bandwidth and latency."""
    pairs = list(zip(devices, (*devices[1:], devices[0]), strict=True))
    latencies, rates = [], []
    for source, target in (*pairs, *((target, source) for source, target in pairs)):
        seconds = []
        for num_bytes in _LINK_BYTES:
            data = StageSharding((source,)).put(np.zeros(num_bytes, np.uint8))
            timing = _STOPWATCH.time(partial(send, data, StageSharding((target,))))
            seconds.append(timing.seconds)
        sizes = [(num_bytes,) for num_bytes in _LINK_BYTES]
        per_byte, latency_s = fit_interpolated_latency(
            sizes, seconds, LINK_FEATURES
        ).coefficients
        latencies.append(float(latency_s))
        # The fit may have a slope of 0 although the largest transfer took some time.
        rates.append(float(per_byte) or seconds[-1] / _LINK_BYTES[-1])
    return Link(
        between=(node, node),
        bandwidth_bytes_per_s=float(f"{1 / max(rates):.4g}"),
        latency_s=float(f"{max(latencies):.4g}"),
    )


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
