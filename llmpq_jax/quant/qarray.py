"""The record of a quantised weight, and what its integers mean."""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

# Arrays are NumPy's on the host and JAX's on a device.
Leaf: TypeAlias = jax.Array | np.ndarray


@struct.dataclass
class QArray:
    """A matrix [C, F] whose integers share scales.

    Axes: C contracted, F features out, G groups along C that share a scale.

    Invariants:
        * `values` is int8 [C, F] at 8 bits, uint8 [C, F/2] at 4: two's-complement
          nibbles, feature 2j in the low half of byte j, feature 2j+1 in the high half.
        * `scale` is float32 [G, F], finite, ours positive; G divides C. 8 bits of ours
          have G = 1.
        * `zero_point`, where present, is int8 [G, F]. Ours are symmetric and have none.
        * `permutation`, where present, is int32 [C] and puts the inputs in the order
          of the rows: files that others wrote with act-order have it, ours have none.
        * It means weight[c, f] = scale[g, f] · (values[c, f] − zero_point[g, f]) with
          g = c // (C / G), multiplied by input permutation[c].

    Attributes:
        values: Integers of the weight, packed two to a byte at 4 bits.
        scale: Step between two consecutive integers, for each group and feature.
        bits: 4 or 8; part of the type, not of the data.
        zero_point: Integer that represents zero; None if that is 0.
        permutation: Index of the input that each row is multiplied by; None if rows are
            in the order of the inputs.
    """

    values: Leaf
    scale: Leaf
    bits: Literal[4, 8] = struct.field(pytree_node=False)
    zero_point: Leaf | None = None
    permutation: Leaf | None = None

    @property
    def num_contracted(self) -> int:
        """Number of rows, C."""
        return self.values.shape[0]

    @property
    def num_features(self) -> int:
        """Number of columns, F."""
        return self.scale.shape[1]

    @property
    def num_groups(self) -> int:
        """Number of groups along the rows, G."""
        return self.scale.shape[0]

    @property
    def group_size(self) -> int:
        """Number of rows that share a scale."""
        return self.num_contracted // self.num_groups

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales, zero points and permutation."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def matmul(self, hidden: Float[Array, "*rows C"]) -> Float[Array, "*rows F"]:
        """Returns hidden @ weight in `hidden`'s type, summed in float32.

        Integers are converted straight to the type they are multiplied in: by way of a
        third type XLA would keep a whole stage's converted copies alive.
        """
        hidden = permuted(hidden, self.permutation)
        if self.num_groups == 1 and self.zero_point is None:
            integers = unpacked_values(self).astype(hidden.dtype)
            product = _matmul_in_float32(hidden, integers)
            scale = self.scale[0].reshape((1,) * (product.ndim - 1) + (-1,))
            return (product * scale).astype(hidden.dtype)
        return matmul(hidden, dequantize(self).astype(hidden.dtype))


def dequantize(weight: QArray) -> Float[Array, "C F"]:
    """Returns the float32 matrix that a weight represents, rows in their stored order."""
    values = unpacked_values(weight).astype(jnp.float32)
    grouped = values.reshape(weight.num_groups, weight.group_size, weight.num_features)
    if weight.zero_point is not None:
        grouped = grouped - weight.zero_point[:, None, :].astype(jnp.float32)
    scaled = grouped * weight.scale[:, None, :]
    return scaled.reshape(weight.num_contracted, weight.num_features)


def unpacked_values(weight: QArray) -> Array:
    """Returns the integers [C, F]: int8, or int4 as a view of the packed bytes."""
    if weight.bits == 8:
        return jnp.asarray(weight.values)
    # A bitcast splits each byte into a last axis of two nibbles, low half first.
    nibbles = jax.lax.bitcast_convert_type(weight.values, jnp.int4)
    return nibbles.reshape(weight.num_contracted, weight.num_features)


def permuted(
    hidden: Float[Array, "*rows C"], permutation: Leaf | None
) -> Float[Array, "*rows C"]:
    """Returns the inputs in the order of a weight's rows; as they are if None."""
    if permutation is None:
        return hidden
    return jnp.take(hidden, permutation, axis=-1)


def matmul(
    hidden: Float[Array, "*rows C"], matrix_CF: Float[Array, "C F"]
) -> Float[Array, "*rows F"]:
    """Returns the product in `hidden`'s type, summed in float32."""
    return _matmul_in_float32(hidden, matrix_CF).astype(hidden.dtype)


def _matmul_in_float32(
    hidden: Float[Array, "*rows C"], matrix_CF: Float[Array, "C F"]
) -> Float[Array, "*rows F"]:
    """Returns the product in float32."""
    contracted = ((hidden.ndim - 1,), (0,))
    return jax.lax.dot_general(
        hidden, matrix_CF, (contracted, ((), ())), preferred_element_type=jnp.float32
    )


def with_groups_cut(weight: QArray, width: int) -> QArray:
    """Repeats scales until `width` equal ranges of rows hold whole groups.

    For a tensor-parallel stage: its shards hold the integers and scales of the whole
    weight; only scales that two shards need are stored twice.

    Raises:
        ValueError: The rows do not divide by `width`, or are permuted.
    """
    if weight.num_contracted % width:
        msg = f"{weight.num_contracted} rows cannot be cut into {width}: expected a divisor"
        raise ValueError(msg)
    if weight.permutation is not None:
        msg = "rows in a permuted order cannot be cut: expected a weight without act-order"
        raise ValueError(msg)
    rows = weight.num_contracted // width
    repeats = weight.group_size // gcd(weight.group_size, rows)
    if repeats == 1 and weight.num_groups % width == 0:
        return weight
    zero_point = weight.zero_point
    if zero_point is not None:
        zero_point = jnp.repeat(zero_point, repeats, axis=0)
    return replace(
        weight, scale=jnp.repeat(weight.scale, repeats, axis=0), zero_point=zero_point
    )
