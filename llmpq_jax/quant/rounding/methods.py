"""Rounds a weight by a named method."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from llmpq_jax.quant.qarray import QArray
from llmpq_jax.quant.quantizer import LARGEST_INTEGER, packed
from llmpq_jax.quant.rounding.compensated import compensated
from llmpq_jax.quant.rounding.learned import learned_scales
from llmpq_jax.quant.rounding.scales import clipped_scales, nearest_scales, to_integers
from llmpq_jax.schema.precision import Rounding, group_size_for


def round_weight(
    weight_CF: Float[Array, "C F"],
    moment_CC: Float[Array, "C C"] | None = None,
    *,
    bits: Literal[4, 8],
    group_size: int = 128,
    rounding: Rounding = "nearest",
) -> QArray:
    """Rounds a weight; see `rounded` for the methods.

    8 bits take one scale per feature, 4 bits one per feature and group of
    `schema.precision.group_size_for` rows.
    """
    num_contracted = weight_CF.shape[0]
    group = num_contracted if bits == 8 else group_size_for(num_contracted, group_size)
    values, scale = rounded(
        weight_CF,
        moment_CC,
        largest=LARGEST_INTEGER[bits],
        group=group,
        rounding=rounding,
    )
    return packed(values, scale, bits=bits)


def rounded(
    weight_CF: Float[Array, "C F"],
    moment_CC: Float[Array, "C C"] | None,
    *,
    largest: int,
    group: int,
    rounding: Rounding,
) -> tuple[Int8[Array, "C F"], Float[Array, "G F"]]:
    """Returns integers from −`largest` to `largest`, and their scales.

    Args:
        weight_CF: Weight in any floating type.
        moment_CC: Second moment E[x·xᵀ] of its inputs x; None for "nearest".
        largest: Largest integer, 7 at 4 bits and 127 at 8.
        group: Number of rows that share a scale.
        rounding: Method. "nearest" chooses each scale by its group's largest magnitude.
            "clip" searches smaller scales for the smallest error, weighted by the
            inputs' squares. "learned" improves these scales by gradient steps, and
            "gptq" lets later rows compensate for the errors of earlier ones.

    Raises:
        ValueError: The method needs the inputs' moments, and they are None.
    """
    weight_CF = weight_CF.astype(jnp.float32)
    if rounding == "nearest":
        scale = nearest_scales(weight_CF, largest=largest, group=group)
        return to_integers(weight_CF, scale, largest=largest), scale
    if moment_CC is None:
        msg = f"rounding {rounding!r} needs the moments of the weight's inputs: expected them, or rounding 'nearest'"
        raise ValueError(msg)
    importance_C = jnp.diagonal(moment_CC)
    scale = clipped_scales(weight_CF, importance_C, largest=largest, group=group)
    if rounding == "learned":
        scale = learned_scales(weight_CF, scale, moment_CC, largest=largest)
    if rounding == "gptq":
        values = compensated(weight_CF, scale, moment_CC, largest=largest)
        return values, scale
    return to_integers(weight_CF, scale, largest=largest), scale
