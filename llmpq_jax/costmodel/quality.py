"""Quality loss Σω of a choice of bits for layers, head and cache."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.errors import SpecError
from llmpq_jax.schema.precision import Bits, HeadBits, KvBits
from llmpq_jax.schema.sensitivity import Sensitivity

# Far beyond the loss of any layer in any unit, and low enough to be added up.
MAX_OMEGA = 1e12
# Relative rounding error of a sum whose terms are added in another order.
_ROUNDING = 1e-9


def omega_table(
    sensitivity: Sensitivity, *, num_layers: int, bits: Sequence[Bits]
) -> Floats:
    """Returns ω of every layer at every precision, [layers, bits].

    Raises:
        SpecError: If a row is missing or its ω too large, or if ω increases with the bits:
            then it is noise, and a plan made from it would trade memory for worse quality.
    """
    table = np.empty((num_layers, len(bits)))
    for layer in range(num_layers):
        for column, width in enumerate(bits):
            try:
                table[layer, column] = sensitivity.omega(layer, width)
            except KeyError as reason:
                msg = f"sensitivity of {sensitivity.model}: no omega of layer {layer} at {width} bits: expected one for every layer; run `llmpq-jax indicate` for these bits"
                raise SpecError(msg) from reason
            if not table[layer, column] <= MAX_OMEGA / num_layers:
                msg = f"sensitivity of {sensitivity.model}: omega of layer {layer} at {width} bits is {table[layer, column]:.4g}: expected at most {MAX_OMEGA / num_layers:.4g}; use a larger unit"
                raise SpecError(msg)
    by_width = sorted(range(len(bits)), key=lambda column: bits[column])
    for fewer, more in pairwise(by_width):
        for layer in np.flatnonzero(table[:, more] > table[:, fewer]):
            msg = (
                f"sensitivity of {sensitivity.model}: omega of layer {layer} rises from "
                f"{table[layer, fewer]:.4g} at {bits[fewer]} bits to "
                f"{table[layer, more]:.4g} at {bits[more]}: expected more bits to lose no "
                "more; run `llmpq-jax indicate` again with more calibration text"
            )
            raise SpecError(msg)
    return table


def total_omega(
    sensitivity: Sensitivity,
    bits: Sequence[Bits],
    *,
    head_bits: HeadBits = 16,
    kv_bits: KvBits = 16,
) -> float:
    """Returns Σω of a choice of bits for every layer, the head and the cache."""
    layers = sum(sensitivity.omega(layer, width) for layer, width in enumerate(bits))
    return layers + whole_model_omega(sensitivity, head_bits=head_bits, kv_bits=kv_bits)


def whole_model_omega(
    sensitivity: Sensitivity, *, head_bits: HeadBits, kv_bits: KvBits
) -> float:
    """Returns the part of Σω that head and cache contribute."""
    head = sensitivity.head_8 if head_bits == 8 else 0.0
    return head + (sensitivity.kv_8 if kv_bits == 8 else 0.0)


def is_within(omega: float, budget: float | None) -> bool:
    """Whether Σω is within a budget, up to rounding; None is no limit."""
    return budget is None or omega <= budget * (1.0 + _ROUNDING)
