"""One quantised matrix in our layout, in NumPy arrays; JAX is not imported."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from jaxtyping import Float, Float32, Int, Int8, Shaped, UInt8

from llmpq_jax.schema.precision import LowBits

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedMatrix:
    """A matrix [C, F] with the fields of `quant.QArray`, in NumPy arrays.

    Attributes:
        values: Integers: int8 [C, F] at 8 bits, uint8 [C, F/2] at 4, two to a byte.
        scale: Step between two consecutive integers, for each group and feature.
        bits: Bits of an integer.
        zero_point: Integer that represents zero; None if that is 0.
        permutation: Index of the input that each row is multiplied by; None if rows are
            in the order of the inputs.
        dtype: Type of 16 bits that the matrix is dequantised to.
    """

    values: Shaped[np.ndarray, "C _"]
    scale: Float32[np.ndarray, "G F"]
    bits: LowBits
    zero_point: Int8[np.ndarray, "G F"] | None = None
    permutation: Int[np.ndarray, " C"] | None = None
    dtype: np.dtype = BFLOAT16

    def dequantized(self) -> Float[np.ndarray, "C F"]:
        """Returns scale · (integer − zero point) for inputs in their own order.

        The difference has at most 9 significant bits and a 16-bit scale at most 11, so
        the product is exact in float32 and rounded once, to `dtype`. A scale that needs
        all of float32 costs one rounding more.
        """
        values = self.values if self.bits == 8 else unpack_nibbles(self.values)
        num_contracted, num_features = values.shape
        num_groups = self.scale.shape[0]
        wide = values.astype(np.float32).reshape(num_groups, -1, num_features)
        if self.zero_point is not None:
            wide -= self.zero_point[:, None, :]
        wide *= self.scale[:, None, :]
        served = wide.reshape(num_contracted, num_features).astype(self.dtype)
        if self.permutation is None:
            return served
        in_order = np.empty_like(served)
        in_order[self.permutation] = served
        return in_order


def pack_nibbles(values_CF: Int[np.ndarray, "C F"]) -> UInt8[np.ndarray, "C F/2"]:
    """Packs integers of −8 to 7 as two's complement, feature 2j in byte j's low half."""
    nibbles = values_CF.astype(np.uint8) & 0x0F
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpack_nibbles(packed: UInt8[np.ndarray, "C F/2"]) -> Int8[np.ndarray, "C F"]:
    """Inverts `pack_nibbles`."""
    values = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    values[:, 0::2] = packed & 0x0F
    values[:, 1::2] = packed >> 4
    # Shifted to the top and back, the nibble's sign fills the byte.
    return (values << 4).view(np.int8) >> 4


def in_groups(
    group_of_C: Int[np.ndarray, " C"], num_groups: int
) -> Int[np.ndarray, " C"] | None:
    """Returns the order of inputs that puts each group's rows together.

    Within a group the inputs keep their order. Returns None if all are in order already.

    Raises:
        ValueError: A group is unknown, or the groups are not of one size.
    """
    num_contracted = len(group_of_C)
    if num_contracted and not 0 <= group_of_C.min() <= group_of_C.max() < num_groups:
        msg = f"names groups {group_of_C.min()} to {group_of_C.max()}: expected 0 to {num_groups - 1}"
        raise ValueError(msg)
    sizes = np.bincount(group_of_C, minlength=num_groups)
    if len(set(sizes.tolist())) != 1:
        msg = f"has groups of {sizes.min()} to {sizes.max()} rows: implemented are groups of one size"
        raise ValueError(msg)
    order = np.argsort(group_of_C, kind="stable").astype(np.int32)
    is_sorted = np.array_equal(order, np.arange(num_contracted))
    return None if is_sorted else order
