"""Rounds weights to integers, on the device that the weight is on."""

from __future__ import annotations

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

from llmpq_jax.quant.qarray import QArray
from llmpq_jax.schema.precision import group_size_for

LARGEST_INTEGER: dict[int, int] = {4: 7, 8: 127}
_MIN_NORMAL = np.finfo(np.float32).tiny


def quantize(
    weight_CF: Float[Array, "C F"], *, bits: Literal[4, 8], group_size: int = 128
) -> QArray:
    """Rounds a weight to the nearest integer multiples of symmetric scales.

    8 bits take one scale per feature, 4 bits one per feature and group of
    `schema.precision.group_size_for` rows. The largest magnitude of a group becomes 127
    or 7, so the error is at most half a scale per element; a group of zeros, or of
    numbers below the normal ones, gets scale 1. The most negative integer is not used.

    Raises:
        ValueError: The number of features is odd, which cannot be packed two to a byte
            at 4 bits.
    """
    num_contracted, num_features = weight_CF.shape
    if bits == 4 and num_features % 2:
        msg = f"a weight of shape {[num_contracted, num_features]} has an odd number of features: expected an even one to pack int4 two to a byte"
        raise ValueError(msg)
    group = num_contracted if bits == 8 else group_size_for(num_contracted, group_size)
    return _quantize(weight_CF, bits=bits, group=group)


def round_rows(
    array: Float[Array, "*rows H"],
) -> tuple[Int8[Array, "*rows H"], Float[Array, "*rows 1"]]:
    """Rounds each vector along the last axis to int8, with its own scale.

    The largest magnitude becomes 127, as by `quantize` at 8 bits.
    """
    wide = array.astype(jnp.float32)
    return _rounded(wide, LARGEST_INTEGER[8], axis=-1)


@partial(jax.jit, static_argnames=("bits", "group"))
def _quantize(weight_CF: jax.Array, *, bits: Literal[4, 8], group: int) -> QArray:
    num_contracted, num_features = weight_CF.shape
    largest = LARGEST_INTEGER[bits]
    grouped = weight_CF.astype(jnp.float32).reshape(-1, group, num_features)
    rounded, scale = _rounded(grouped, largest, axis=1)
    return packed(rounded.reshape(num_contracted, num_features), scale[:, 0], bits=bits)


def packed(
    values_CF: Int8[Array, "C F"], scale_GF: Float[Array, "G F"], *, bits: Literal[4, 8]
) -> QArray:
    """Returns a weight, given its integers and scales."""
    values = values_CF if bits == 8 else _pack(values_CF)
    return QArray(values=values, scale=scale_GF, bits=bits)


def scale_of(
    magnitude: Float[Array, "*groups"], largest: int
) -> Float[Array, "*groups"]:
    """Returns the scales at which these magnitudes become the largest integer."""
    # Compilers may change a division; a product with a reciprocal they leave as it is.
    quotient = magnitude * np.float32(1 / largest)
    # A group of zeros, or of numbers so small that the reciprocal would overflow.
    return jnp.where(quotient >= _MIN_NORMAL, quotient, 1.0)


def _rounded(wide: jax.Array, largest: int, *, axis: int) -> tuple[Array, Array]:
    scale = scale_of(jnp.max(jnp.abs(wide), axis=axis, keepdims=True), largest)
    rounded = jnp.round(wide * (1 / scale))
    return jnp.clip(rounded, -largest, largest).astype(jnp.int8), scale


def _pack(values_CF: Int8[Array, "C F"]) -> Array:
    nibbles = jax.lax.bitcast_convert_type(values_CF, jnp.uint8) & 0x0F
    pairs = nibbles.reshape(values_CF.shape[0], -1, 2)
    return pairs[..., 0] | (pairs[..., 1] << 4)
