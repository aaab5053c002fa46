"""Kinds of device by their makers' figures, from the catalogue that ships here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.errors import ClusterError
from llmpq_jax.schema.cluster import Bytes
from llmpq_jax.schema.record import record
from llmpq_jax.schema.toml import read_record

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@record
class DeviceKind:
    """What a kind of device is said to do.

    Attributes:
        name: As a cluster file's `kind` has it.
        platform: Which software serves it; "rocm" is planned for only.
        memory_bytes: What its driver reports. In the file `memory`.
        flops: Dense, of 16-bit products added up in 32 bits.
        bandwidth_bytes_per_s: Of its memory.
        source: Where the figures stand.
    """

    name: str
    platform: Literal["cpu", "cuda", "rocm"]
    memory_bytes: Annotated[Bytes, Field(alias="memory")]
    flops: Positive
    bandwidth_bytes_per_s: Positive
    source: str


@record
class Catalogue:
    """A whole catalogue.

    Attributes:
        schema: Version of the file format.
        kinds: In the file `[[kind]]`.
    """

    schema: Literal[1] = 1
    kinds: Annotated[tuple[DeviceKind, ...], Field(alias="kind")]

    def find(self, name: str) -> DeviceKind:
        """Returns the kind of that name.

        Raises:
            ClusterError: There is none.
        """
        for kind in self.kinds:
            if kind.name == name:
                return kind
        names = ", ".join(kind.name for kind in self.kinds)
        msg = f"catalogue: no device of kind {name!r}: expected one of {names}; name one of these in the cluster file, or measure the device with `llmpq-jax profile`"
        raise ClusterError(msg)


def read_catalogue() -> Catalogue:
    """Reads the catalogue that ships with the package."""
    source = resources.files("llmpq_jax.arch") / "catalogue.toml"
    with resources.as_file(source) as path:
        return read_record(Catalogue, Path(path), what="catalogue", error=ClusterError)
