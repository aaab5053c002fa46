"""How much quality each layer loses at each precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.schema.precision import Bits, Rounding
from llmpq_jax.schema.record import record


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
class CalibrationText:
    """On what sensitivities were found, and how they were made to fit.

    Attributes:
        text: Name of the calibration text's file.
        digest: Its SHA-256.
        num_tokens: Read of it.
        seed: Of whatever was drawn.
        num_assignments: Random choices of bits whose measured increase in
            log-perplexity Σω was fitted to.
        factor: What every ω was multiplied with for that.
        r2: Share of the variance of those increases that Σω then explains.
    """

    text: str
    digest: str
    num_tokens: int
    seed: int
    num_assignments: int
    factor: float
    r2: float


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
        rounded: Folder of the weights so rounded, relative to the file or absolute;
            absent where weights are rounded to the nearest as they are loaded.
        group_size: Of int4 groups.
        head_8: ω of a head at 8 bits.
        kv_8: ω of a cache at 8 bits, all layers together.
        wire_8: ω of hidden states at 8 bits between two layers, for each such place.
        calibration: On what; absent where no text was read.
        layers: In the file `[[layer]]`; 16 bits may be left out and count 0.
    """

    schema: Literal[1] = 1
    model: str
    fingerprint: str
    method: str
    unit: str
    rounding: Rounding = "nearest"
    rounded: str | None = None
    group_size: int
    head_8: float = 0.0
    kv_8: float = 0.0
    wire_8: float = 0.0
    calibration: CalibrationText | None = None
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
