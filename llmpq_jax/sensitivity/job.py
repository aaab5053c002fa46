"""What sensitivities are estimated by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmpq_jax.schema.precision import Rounding

Method = Literal["hessian", "variance", "measured", "random"]
METHODS: tuple[Method, ...] = ("hessian", "variance", "measured", "random")


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityJob:
    """Method and rounding of one estimate of all sensitivities.

    Attributes:
        method: Source of ω. "hessian" and "variance" are second-order estimates (see
            `second_order`), "measured" is the loss with only this layer rounded, "random"
            is a control that ignores the model.
        rounding: Method of rounding weights.
        rounded: Folder for rounded weights; None if they are rounded to nearest.
        num_assignments: Number of random bit assignments that the factor is fitted to.
        seed: Seed of everything that is drawn.
    """

    method: Method = "hessian"
    rounding: Rounding = "nearest"
    rounded: Path | None = None
    num_assignments: int = 12
    seed: int = 0

    @property
    def is_second_order(self) -> bool:
        """Whether ω is estimated from moments instead of measured or drawn."""
        return self.method in ("hessian", "variance")

    @property
    def needs_moments(self) -> bool:
        """Whether the estimate or the rounding uses the moments of each matrix."""
        return self.is_second_order or self.rounding != "nearest"
