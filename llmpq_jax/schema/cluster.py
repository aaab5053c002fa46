"""The devices at hand: what they are, what they hold, how they are joined."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from llmpq_jax.schema.record import record
from llmpq_jax.units import GIB, MIB, parse_bytes

Platform = Literal["cpu", "cuda", "rocm"]


def _read_bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _write_bytes(value: int) -> str | int:
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if value and value % size == 0:
            return f"{value // size} {unit}"
    return value


Bytes = Annotated[
    int, BeforeValidator(_read_bytes), PlainSerializer(_write_bytes, when_used="json")
]


@record
class Device:
    """One accelerator, or one emulated CPU device.

    Attributes:
        name: Unique on its node, as JAX numbers it: "cuda:0", "cpu:3".
        kind: Devices of a kind are measured once: "A100-40", "cpu-emulated".
        platform: JAX's name of the backend; "rocm" is planned for, not run on yet.
        memory_bytes: What a plan may use of it at most, reserve included. In the file
            `memory`, a number of bytes or a text such as "24 GiB".
        reserve_bytes: Left free for the runtime itself. In the file `reserve`.
        use: "any" leaves it to the planner; "always" and "never" pin it.
    """

    name: str
    kind: str
    platform: Platform
    memory_bytes: Annotated[Bytes, Field(alias="memory")]
    reserve_bytes: Annotated[Bytes, Field(alias="reserve")] = 0
    use: Literal["any", "always", "never"] = "any"

    def __post_init__(self) -> None:
        if not 0 <= self.reserve_bytes < self.memory_bytes:
            msg = (
                f"device {self.name!r} reserves {self.reserve_bytes} of "
                f"{self.memory_bytes} bytes: expected a reserve below its memory"
            )
            raise ValueError(msg)

    @property
    def usable_bytes(self) -> int:
        """Bytes a plan may fill."""
        return self.memory_bytes - self.reserve_bytes


@record
class Node:
    """A machine and its devices.

    Attributes:
        name: Unique in the cluster.
        devices: In the file `[[node.device]]`.
        shared_capacity: How many devices' worth of work it does while all of its devices
            are at work, at least 1. Emulated CPU devices share one processor, so four of
            them may have a capacity near 1; absent means that devices do not share, or
            that it is measured.
        cores: Of its processor, that programs there may use; for people.
    """

    name: str
    devices: Annotated[tuple[Device, ...], Field(alias="device")]
    shared_capacity: float | None = None
    cores: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        if not self.devices:
            msg = f"node {self.name!r} has no device: expected at least one"
            raise ValueError(msg)
        _refuse_doubles("device", [device.name for device in self.devices])
        if self.shared_capacity is not None and not self.shared_capacity >= 1:
            msg = (
                f"node {self.name!r} has a shared_capacity of {self.shared_capacity}: "
                "expected at least 1, or no such line"
            )
            raise ValueError(msg)


@record
class Link:
    """What joins two nodes, in both directions.

    Attributes:
        between: Names of two nodes; the same name twice stands for the devices
            inside one node.
        bandwidth_bytes_per_s: Of one transfer, one way.
        latency_s: Before the first byte.
    """

    between: tuple[str, str]
    bandwidth_bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if self.bandwidth_bytes_per_s <= 0 or self.latency_s < 0:
            msg = (
                f"link {self.between[0]}–{self.between[1]} has "
                f"{self.bandwidth_bytes_per_s} bytes/s and {self.latency_s} s latency: "
                "expected a positive bandwidth and no negative latency"
            )
            raise ValueError(msg)


@record
class NodeDevice:
    """A device with its place in the cluster.

    Attributes:
        name: "node/device", unique in the cluster.
        node: Its node.
        device: Itself.
    """

    name: str
    node: Node
    device: Device


@record
class Cluster:
    """All devices, in the order in which a pipeline may use them.

    Attributes:
        schema: Version of the file format.
        name: For people.
        nodes: In the file `[[node]]`.
        links: In the file `[[link]]`; a pair without a link is taken from the
            measurements.
    """

    schema: Literal[1] = 1
    name: str
    nodes: Annotated[tuple[Node, ...], Field(alias="node")]
    links: Annotated[tuple[Link, ...], Field(alias="link")] = ()

    def __post_init__(self) -> None:
        if not self.nodes:
            msg = "the cluster has no node: expected at least one [[node]]"
            raise ValueError(msg)
        names = [node.name for node in self.nodes]
        _refuse_doubles("node", names)
        for link in self.links:
            for end in link.between:
                if end not in names:
                    msg = f"a link names node {end!r}: expected one of {names}"
                    raise ValueError(msg)
        if all(
            node_devices.device.use == "never" for node_devices in self.node_devices
        ):
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
        """Returns the device of that full name.

        Raises:
            KeyError: There is none.
        """
        for node_devices in self.node_devices:
            if node_devices.name == name:
                return node_devices
        raise KeyError(name)

    def link_between(self, first: NodeDevice, second: NodeDevice) -> Link | None:
        """Returns the link that joins two devices' nodes, if the file says one."""
        ends = {first.node.name, second.node.name}
        for link in self.links:
            if set(link.between) == ends:
                return link
        return None


def _refuse_doubles(what: str, names: list[str]) -> None:
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        msg = f"{what} {doubles[0]!r} is there twice: expected unique names"
        raise ValueError(msg)
