"""Weights in the layout of the GPU's products: whole groups of contracted rows.

Integers are packed as `nibbles` describes; what they mean is unchanged.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Shaped

from llmpq_jax.kernels.blocks import MIN_ROWS
from llmpq_jax.kernels.nibbles import pack_groups
from llmpq_jax.kernels.pallas_product import multiply_with_pallas
from llmpq_jax.kernels.reduced_product import multiply_without_triton
from llmpq_jax.quant import Leaf, QArray, permuted, unpacked_values

GroupKernel = Literal["pallas", "xla"]
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
        values: Integers of the weight, packed two to a byte at 4 bits.
        scale: Step between two consecutive integers, for each group and feature.
        bits: 4 or 8; part of the type, not of the data.
        kernel: Product that reads it: Pallas's, or XLA's for GPUs without Triton.
        zero_point: Integer that represents zero; None if that is 0.
        permutation: Index of the input that each row is multiplied by; None if rows are
            in the order of the inputs.
    """

    values: Leaf
    scale: Leaf
    bits: Literal[4, 8] = struct.field(pytree_node=False)
    kernel: GroupKernel = struct.field(pytree_node=False)
    zero_point: Leaf | None = None
    permutation: Leaf | None = None

    @property
    def num_groups(self) -> int:
        """Number of groups along the rows, G."""
        return self.scale.shape[0]

    @property
    def group_size(self) -> int:
        """Number of rows that share a scale."""
        return self.values.shape[1] * self.rows_per_value

    @property
    def num_contracted(self) -> int:
        """Number of rows, C."""
        return self.num_groups * self.group_size

    @property
    def num_features(self) -> int:
        """Number of columns, F."""
        return self.scale.shape[1]

    @property
    def rows_per_value(self) -> int:
        """Number of rows that share a byte."""
        return 8 // self.bits

    @property
    def nbytes(self) -> int:
        """Bytes of integers, scales, zero points and permutation."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def matmul(self, hidden: Float[Array, "*rows C"]) -> Float[Array, "*rows F"]:
        """Returns hidden @ weight in `hidden`'s type, summed in float32.

        Raises:
            ValueError: Hidden states and weight do not match; a kernel would read beyond
                the weight's end.
        """
        *batch, num_contracted = hidden.shape
        if num_contracted != self.num_contracted:
            msg = f"hidden states of width {num_contracted} and a weight of {self.num_contracted} rows: expected the same number"
            raise ValueError(msg)
        rows = permuted(hidden, self.permutation).reshape(-1, num_contracted)
        multiply = (
            multiply_with_pallas if self.kernel == "pallas" else multiply_without_triton
        )
        values, scale, zero_point = jax.tree.map(
            jnp.asarray, (self.values, self.scale, self.zero_point)
        )
        product = multiply(rows, values, scale, zero_point, bits=self.bits)
        return product.reshape(*batch, self.num_features)


def group_kernel(
    weight: QArray, *, has_triton: bool, num_row_cuts: int = 1
) -> GroupKernel | None:
    """Returns the product that a weight is laid out for, or None to leave its layout.

    With Triton, Pallas's takes int4 and grouped int8, while XLA itself fuses int8 with
    one scale per feature into its product. int4 with one scale per feature must not be
    left to XLA as `QArray` packs it: the compiler of JAX 0.10.2 crashes. Without Triton
    all products are faster in groups. An odd group cannot be halved, and stays. Groups
    are cut already if rows are cut over `num_row_cuts` devices.
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
    """Returns a weight in groups, on its device, for the product of `group_kernel`."""
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
    return pack_groups(values, bits=weight.bits)
