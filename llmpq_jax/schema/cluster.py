"""The devices of a cluster: their kinds, memory and links."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.schema.field_types import MAX_BYTES, Bytes, DeviceCount, Within
from llmpq_jax.schema.record import first_duplicate, record, require_at_most

# JAX emulates as many devices as the largest number asks for.
MAX_DEVICE_INDEX = 4095

Platform = Literal["cpu", "cuda", "rocm"]


@record
class Device:
    """One accelerator, or one emulated CPU device.

    Attributes:
        name: Name as JAX numbers it, unique on its node: "cuda:0", "cpu:3".
        kind: Kind of device, such as "A100-40" or "cpu-emulated"; a kind is measured once.
        platform: Backend as JAX names it; "rocm" can be planned for but not run on yet.
        memory_bytes: Memory of the device, reserve included. In the file `memory`, a
            number of bytes or a text such as "24 GiB".
        reserve_bytes: Memory that plans leave free for the runtime itself. In the file
            `reserve`.
        use: Whether a plan uses the device: "any" lets the planner decide, "always" and
            "never" fix it.
    """

    name: str
    kind: str
    platform: Platform
    memory_bytes: Annotated[Bytes, Field(alias="memory")]
    reserve_bytes: Annotated[Bytes, Field(alias="reserve")] = 0
    use: Literal["any", "always", "never"] = "any"

    def __post_init__(self) -> None:
        check_name("device", self.name)
        require_at_most(self, memory_bytes=MAX_BYTES)
        if not 0 <= self.reserve_bytes < self.memory_bytes:
            msg = f"device {self.name!r} reserves {self.reserve_bytes} of {self.memory_bytes} bytes: expected a reserve below its memory"
            raise ValueError(msg)

    @property
    def usable_bytes(self) -> int:
        """Bytes that a plan may use."""
        return self.memory_bytes - self.reserve_bytes


@record
class Node:
    """A machine and its devices.

    Attributes:
        name: Name of the node, unique in the cluster.
        devices: Devices of the node. In the file `[[node.device]]`.
        shared_capacity: Work that all devices do at the same time, in devices' worth, at
            least 1. Emulated CPU devices share one processor, so four of them may have a
            capacity near 1. Absent if devices do not share a processor, or if the
            capacity is measured.
        cores: Processor cores that programs on the node may use, for display.
    """

    name: str
    devices: Annotated[tuple[Device, ...], Field(alias="device")]
    shared_capacity: Annotated[float, Within(most=1e6)] | None = None
    cores: DeviceCount | None = None

    def __post_init__(self) -> None:
        check_name("node", self.name)
        if not self.devices:
            msg = f"node {self.name!r} has no device: expected at least one"
            raise ValueError(msg)
        _refuse_duplicates("device", [device.name for device in self.devices])
        if self.shared_capacity is not None and not self.shared_capacity >= 1:
            msg = f"node {self.name!r} has a shared_capacity of {self.shared_capacity}: expected at least 1, or no such line"
            raise ValueError(msg)


@record
class Link:
    """A connection of two nodes, in both directions.

    Attributes:
        between: Names of the two nodes; the same name twice for a connection of the
            devices inside one node.
        bandwidth_bytes_per_s: Bandwidth of one transfer, one way, from 1 to 1e15.
        latency_s: Seconds before the first byte of a transfer, at most 1e6.
    """

    between: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        # Whatever is not a number is in no range.
        if not (1 <= self.bandwidth_bytes_per_s <= 1e15 and 0 <= self.latency_s <= 1e6):
            msg = f"link {self.between[0]}–{self.between[1]} has {self.bandwidth_bytes_per_s} bytes/s and {self.latency_s} s latency: expected a positive bandwidth of 1 to 1e15 bytes/s, and a latency of 0 to 1e6 s"
            raise ValueError(msg)


@record
class KindFigures:
    """Data-sheet figures of one kind of device, for plans without measurements.

    Attributes:
        name: Kind of device, as devices have it in `kind`.
        flops: Dense operations per second of 16-bit products with 32-bit sums; of 32-bit
            products on a CPU.
        bandwidth_bytes_per_s: Bandwidth of the memory.
        source: Origin of the figures, for display.
    """

    name: str
    flops: Annotated[float, Within(least=1e6, most=1e18)]
    bandwidth_bytes_per_s: Annotated[float, Within(least=1e6, most=1e15)]
    source: str = "the cluster file"


@record
class NodeDevice:
    """A device together with its node.

    Attributes:
        name: Full name "node/device", unique in the cluster.
        node: Node that the device belongs to.
        device: Record of the device.
    """

    name: str
    node: Node
    device: Device


@record
class Cluster:
    """All devices, in the order in which a pipeline may use them.

    Attributes:
        schema: Version of the file format.
        name: Name of the cluster, for display.
        nodes: Nodes of the cluster. In the file `[[node]]`.
        links: Connections of nodes. In the file `[[link]]`; for a pair without one,
            measured transfers are used.
        kinds: Figures of kinds of device that `solve --roofline` uses instead of the
            catalogue's. In the file `[[kind]]`.
    """

    schema: Literal[1] = 1
    name: str
    nodes: Annotated[tuple[Node, ...], Field(alias="node")]
    links: Annotated[tuple[Link, ...], Field(alias="link")] = ()
    kinds: Annotated[tuple[KindFigures, ...], Field(alias="kind")] = ()

    def __post_init__(self) -> None:
        if not self.nodes:
            msg = "the cluster has no node: expected at least one [[node]]"
            raise ValueError(msg)
        names = [node.name for node in self.nodes]
        _refuse_duplicates("node", names)
        for link in self.links:
            for name in link.between:
                if name not in names:
                    msg = f"a link names node {name!r}: expected one of {names}"
                    raise ValueError(msg)
        _refuse_duplicates("kind", [kind.name for kind in self.kinds])
        present = {each.device.kind for each in self.node_devices}
        for kind in self.kinds:
            if kind.name not in present:
                msg = f"a [[kind]] is named {kind.name!r}: expected one of {sorted(present)}, the kinds of the devices"
                raise ValueError(msg)
        if all(each.device.use == "never" for each in self.node_devices):
            msg = 'every device has use = "never": expected one that may be used'
            raise ValueError(msg)

    @property
    def node_devices(self) -> tuple[NodeDevice, ...]:
        """All devices with their full names, in file order."""
        return tuple(
            NodeDevice(name=f"{node.name}/{device.name}", node=node, device=device)
            for node in self.nodes
            for device in node.devices
        )

    def find(self, name: str) -> NodeDevice:
        """Returns the device with a full name.

        Raises:
            KeyError: If there is none.
        """
        return {each.name: each for each in self.node_devices}[name]

    def link_between(self, first: NodeDevice, second: NodeDevice) -> Link | None:
        """Returns the link of two devices' nodes; None if the file has none."""
        nodes = {first.node.name, second.node.name}
        return next((link for link in self.links if set(link.between) == nodes), None)


def check_name(what: str, name: str) -> None:
    """Raises ValueError for a name that cannot be shown in a line, or asks for too much."""
    if not name.isprintable():
        msg = f"{what} {name!r}: expected a name of printable characters"
        raise ValueError(msg)
    number = re.search(r":([0-9]+)\Z", name)
    if number and (len(number[1]) > 9 or int(number[1]) > MAX_DEVICE_INDEX):
        msg = f"{what} {name[:80]!r}: expected a number of at most {MAX_DEVICE_INDEX} behind the colon"
        raise ValueError(msg)


def _refuse_duplicates(what: str, names: list[str]) -> None:
    duplicate = first_duplicate(names)
    if duplicate is not None:
        msg = f"{what} {duplicate!r} occurs twice: expected unique names"
        raise ValueError(msg)
