"""Weights in the layout of the GPU's products: whole groups of contracted rows.

Two integers of four bits that share a byte stand half a group apart: a kernel that has
unpacked a block of bytes holds two blocks of consecutive rows, and multiplies each with
consecutive hidden states. Nothing is ever interleaved. What the integers mean is unchanged.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Shaped

from llmpq_jax.quant import QArray, unpacked_values

GroupKernel = Literal["pallas", "xla"]
_NIBBLE_OFFSET = 8
MIN_ROWS = 16  # contracted at once by a tensor core's product of 16-bit numbers
_MAX_ELEMENTS = 2**31 - 1  # Triton's offsets are 32 bits wide


@struct.dataclass
class GroupArray:
    """A matrix [C, F] in groups, on a GPU.

    Invariants:
        * `values` is int8 [G, C/G, F] at 8 bits, uint8 [G, C/G/2, F] at 4: byte row r of
          a group holds its row r in the low half and its row r + C/G/2 in the high one,
          both as value + 8.
        * `scale`, `zero_point` and `permutation` are those of `QArray`.

    Attributes:
        values: The integers.
        scale: Their steps.
        bits: 4 or 8; part of the type, not of the data.
        kernel: Which product reads it: Pallas's, or XLA's for GPUs without Triton.
        zero_point: What integer stands for zero.
        permutation: Which input meets which row.
    """

    values: jax.Array
    scale: jax.Array
    bits: Literal[4, 8] = struct.field(pytree_node=False)
    kernel: GroupKernel = struct.field(pytree_node=False)
    zero_point: jax.Array | None = None
    permutation: jax.Array | None = None

    @property
    def num_groups(self) -> int:
        """G."""
        return self.scale.shape[0]

    @property
    def group_size(self) -> int:
        """Rows that share a scale."""
        return self.values.shape[1] * self.rows_per_value

    @property
    def num_contracted(self) -> int:
        """C."""
        return self.num_groups * self.group_size

    @property
    def num_features(self) -> int:
        """F."""
        return self.scale.shape[1]

    @property
    def rows_per_value(self) -> int:
        """Rows that share a byte."""
        return 8 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes held, scales included."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))


def group_kernel(
    weight: QArray, *, has_triton: bool, num_row_cuts: int = 1
) -> GroupKernel | None:
    """Returns which product a weight had better be laid out for, or None to leave it.

    With Triton, Pallas's takes int4 and grouped int8, while XLA itself fuses int8 with one
    scale per feature into its product. int4 with one scale per feature must not be left to
    XLA as `QArray` packs it: the compiler of JAX 0.10.2 ends the process over it. Without
    Triton everything is better off in groups. An odd group cannot be halved, and stays.

    Args:
        weight: Its groups are cut already.
        has_triton: Whether the GPU's compute capability is at least 8.0.
        num_row_cuts: How many devices its rows are cut over.
    """
    rows_per_value = 8 // weight.bits
    if weight.group_size % rows_per_value:
        return None
    if not has_triton:
        return "xla"
    is_per_feature = weight.num_groups == num_row_cuts and weight.zero_point is None
    if weight.bits == 8 and is_per_feature:
        return None
    stored_rows = weight.group_size // rows_per_value
    if stored_rows % MIN_ROWS == 0 and weight.values.size <= _MAX_ELEMENTS:
        return "pallas"
    return "xla" if weight.bits == 4 else None


def to_groups(weight: QArray, *, kernel: GroupKernel) -> GroupArray:
    """Brings a weight into groups, where it lies, for the product `group_kernel` names."""
    zero_point, permutation = weight.zero_point, weight.permutation
    return GroupArray(
        values=_in_groups(weight),
        scale=jnp.asarray(weight.scale),
        bits=weight.bits,
        kernel=kernel,
        zero_point=None if zero_point is None else jnp.asarray(zero_point),
        permutation=None if permutation is None else jnp.asarray(permutation),
    )


@jax.jit
def _in_groups(weight: QArray) -> Shaped[Array, "G _stored F"]:
    shape = (weight.num_groups, weight.group_size, weight.num_features)
    values = unpacked_values(weight).astype(jnp.int8).reshape(shape)
    if weight.bits == 8:
        return values
    low, high = jnp.split((values + _NIBBLE_OFFSET).astype(jnp.uint8), 2, axis=1)
    return low | (high << 4)


def unpacked_groups(weight: GroupArray) -> tuple[Int[Array, "G _rows F"], ...]:
    """Returns the values less their zero points, as int32.

    Each array holds an equal run of rows of every group, in order: the whole group at 8
    bits, its first and its second half at 4.
    """
    parts = unpacked_parts(weight.values.astype(jnp.int32), bits=weight.bits)
    if weight.zero_point is not None:
        offset = weight.zero_point[:, None, :].astype(jnp.int32)
        parts = [part - offset for part in parts]
    return tuple(parts)


def unpacked_parts(stored: Int[Array, "*axes"], *, bits: int) -> list[Array]:
    """Returns the integers in `GroupArray.values`, widened: first halves, then second."""
    if bits == 8:
        return [stored]
    return [(stored & 15) - _NIBBLE_OFFSET, (stored >> 4) - _NIBBLE_OFFSET]


def permuted(
    hidden: Float[Array, "*rows C"], weight: QArray | GroupArray
) -> Float[Array, "*rows C"]:
    """Returns the inputs in the order of a weight's rows."""
    if weight.permutation is None:
        return hidden
    return jnp.take(hidden, weight.permutation, axis=-1)
