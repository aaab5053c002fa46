"""Data-sheet figures of kinds of device, from the catalogue of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.errors import ClusterError
from llmpq_jax.schema.cluster import Platform
from llmpq_jax.schema.field_types import Bytes
from llmpq_jax.schema.record import record
from llmpq_jax.schema.toml import read_record

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@record
class DeviceKind:
    """Data-sheet figures of one kind of device.

    Attributes:
        name: Name of the kind, as in a cluster file.
        platform: Backend that serves the kind; "rocm" can only be planned for.
        memory_bytes: Memory that the driver reports, in bytes. In the file `memory`.
        flops: Dense operations per second of 16-bit products with 32-bit sums.
        bandwidth_bytes_per_s: Bandwidth of the memory.
        source: Document that has the figures.
    """

    name: str
    platform: Platform
    memory_bytes: Annotated[Bytes, Field(alias="memory")]
    flops: Positive
    bandwidth_bytes_per_s: Positive
    source: str


@record
class Catalogue:
    """A whole catalogue.

    Attributes:
        schema: Version of the file format.
        kinds: Kinds of device. In the file `[[kind]]`.
    """

    schema: Literal[1] = 1
    kinds: Annotated[tuple[DeviceKind, ...], Field(alias="kind")]

    def find(self, name: str) -> DeviceKind:
        """Returns the kind with a name.

        Raises:
            ClusterError: If there is none.
        """
        for kind in self.kinds:
            if kind.name == name:
                return kind
        names = ", ".join(kind.name for kind in self.kinds)
        msg = f"catalogue: no device of kind {name!r}: expected one of {names}; use one of these in the cluster file, give its figures in a [[kind]] there, or measure the device with `llmpq-jax profile`"
        raise ClusterError(msg)


def read_catalogue() -> Catalogue:
    """Reads the catalogue of the package."""
    path = Path(__file__).with_name("catalogue.toml")
    return read_record(Catalogue, path, what="catalogue", error=ClusterError)
