"""Sensitivity: the quality that each layer loses at each precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmpq_jax.schema.field_types import Count, FilePath, Finite, Ratio, Within
from llmpq_jax.schema.precision import Bits, Rounding
from llmpq_jax.schema.record import record
from llmpq_jax.schema.workload import MAX_LAYERS


@record
class LayerSensitivity:
    """Sensitivity of one layer at one precision.

    Attributes:
        layer: Index of the layer, from 0.
        bits: Precision of the layer.
        omega: Quality loss ω, in the file's unit; at least 0.
    """

    layer: Annotated[int, Within(least=0, most=MAX_LAYERS - 1)]
    bits: Bits
    omega: float

    def __post_init__(self) -> None:
        if not 0 <= self.omega < float("inf"):
            msg = f"omega of layer {self.layer} at {self.bits} bits is {self.omega}: expected a finite number from 0 up"
            raise ValueError(msg)


@record
class CalibrationText:
    """Calibration text of a sensitivity file, and the fit of Σω to perplexity.

    Attributes:
        text: File name of the calibration text.
        digest: SHA-256 of the text.
        num_tokens: Number of tokens that were read.
        seed: Seed of all random choices.
        num_assignments: Number of random choices of bits whose measured increase of
            log-perplexity Σω was fitted to.
        factor: Factor that every ω was multiplied by for this fit.
        r2: Share of the variance of these increases that Σω explains.
    """

    text: str
    digest: str
    num_tokens: int
    seed: int
    num_assignments: int
    factor: Finite
    r2: Finite


@record
class Sensitivity:
    """A whole sensitivity file.

    Attributes:
        schema: Version of the file format.
        model: Path or name of the model, for display.
        fingerprint: Fingerprint of the model; another model cannot be planned with the
            file.
        method: Method of the estimate: "weight-variance", "variance", "hessian", …
        unit: Meaning of a value of 1.
        rounding: Rounding method that was evaluated.
        rounded: Path of the folder of calibrated weights, relative to the file or
            absolute; absent if weights are rounded to nearest when they are loaded.
        group_size: Number of weights that share an int4 scale.
        head_8: Quality loss ω of a head at 8 bits.
        kv_8: Quality loss ω of a cache at 8 bits, of all layers together.
        wire_8: Quality loss ω of hidden states at 8 bits between two stages, for each
            such pair.
        calibration: Calibration text and fit; absent if no text was read.
        layers: Sensitivities of the layers. In the file `[[layer]]`; rows of 16 bits may
            be left out and count 0.
    """

    schema: Literal[1] = 1
    model: str
    fingerprint: str
    method: str
    unit: str
    rounding: Rounding = "nearest"
    rounded: FilePath | None = None
    group_size: Count
    head_8: Ratio = 0.0
    kv_8: Ratio = 0.0
    wire_8: Ratio = 0.0
    calibration: CalibrationText | None = None
    layers: Annotated[tuple[LayerSensitivity, ...], Field(alias="layer")]

    def omega(self, layer: int, bits: Bits) -> float:
        """Returns ω of one layer at one precision.

        Raises:
            KeyError: If the file has no such row and `bits` is less than 16.
        """
        for row in self.layers:
            if row.layer == layer and row.bits == bits:
                return row.omega
        if bits in (16, 32):
            return 0.0
        raise KeyError((layer, bits))
