"""How much quality each layer loses at each precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.spec._record import record
from llmpq_jax.spec.precision import Bits


@record
class LayerSensitivity:
    """One layer at one precision.

    Attributes:
        layer: Counted from 0.
        bits: Its precision.
        omega: The loss ω, in the file's unit; not below 0.
    """

    layer: int
    bits: Bits
    omega: float

    def __post_init__(self) -> None:
        if not 0 <= self.omega < float("inf"):
            msg = f"omega of layer {self.layer} at {self.bits} bits is {self.omega}: expected a finite number from 0 up"
            raise ValueError(msg)


@record
class Sensitivity:
    """A whole sensitivity file.

    Attributes:
        schema: Version of the file format.
        model: Path or name of the model, for people.
        fingerprint: Of the model; planning another with it is refused.
        method: How it was found: "weight-variance", "variance", "hessian", …
        unit: What a value of 1 means.
        rounding: The quantiser it judges.
        group_size: Of int4 groups.
        head_8: ω of a head at 8 bits.
        layers: In the file `[[layer]]`; 16 bits may be left out and count 0.
    """

    schema: Literal[1] = 1
    model: str
    fingerprint: str
    method: str
    unit: str
    rounding: Literal["nearest"] = "nearest"
    group_size: int
    head_8: float = 0.0
    layers: Annotated[tuple[LayerSensitivity, ...], Field(alias="layer")]

    def omega(self, layer: int, bits: Bits) -> float:
        """Returns ω of one layer at one precision.

        Raises:
            KeyError: The file has no such row and `bits` is not 16.
        """
        for row in self.layers:
            if row.layer == layer and row.bits == bits:
                return row.omega
        if bits == 16:
            return 0.0
        raise KeyError((layer, bits))
