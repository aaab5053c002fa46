"""Weights in the layout of the native kernels: panels of 16 features.

A pass over a panel reads memory in order, a whole vector of features at every contracted
row. What the integers mean is unchanged; `native/kernels.h` draws the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from llmpq_jax.kernels.native import native_path
from llmpq_jax.quant import Leaf, QArray, unpacked_values
from llmpq_jax.schema.precision import Bits

PANEL = 16
ROWS_PER_WORD = 8
VALUE_DTYPES: dict[Bits, type] = {4: jnp.uint32, 8: jnp.int8, 16: jnp.bfloat16}


@struct.dataclass
class PanelArray:
    """A matrix [C, F] in panels, on a CPU.

    Invariants:
        * `values` is bfloat16 [F/16, C, 16] at 16 bits, int8 of that shape at 8, uint32
          [F/16, C/8, 16] at 4: eight consecutive rows of a feature to a word, row i in
          bits 4i to 4i + 3, the first seven as value + 8, the last as two's complement.
        * `scale` is float32 [F/16, G, 16]; at 16 bits there are no groups.
        * The last `num_padding` features are padding; they have values 0.

    Attributes:
        values: Integers of the weight, or at 16 bits the weight itself.
        scale: Step between two consecutive integers, for each group and feature.
        num_padding: Number of features that pad the last panel.
    """

    values: Leaf
    scale: Leaf
    num_padding: int = struct.field(pytree_node=False, default=0)

    @property
    def num_features(self) -> int:
        """Number of columns without padding, F."""
        return self.values.shape[0] * PANEL - self.num_padding

    @property
    def num_groups(self) -> int:
        """Number of groups along the rows, G."""
        return self.scale.shape[1]

    @property
    def num_contracted(self) -> int:
        """Number of rows, C."""
        rows = self.values.shape[1]
        return rows * ROWS_PER_WORD if self.values.dtype == jnp.uint32 else rows

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scale.nbytes

    def matmul(self, hidden: Float[Array, "*rows C"]) -> Float[Array, "*rows F"]:
        """Returns hidden @ weight in `hidden`'s type, summed in float32."""
        return multiply_panels(hidden, [self])[0]


def multiply_panels(
    hidden: Float[Array, "*rows C"], weights: Sequence[PanelArray]
) -> tuple[Float[Array, "*rows _F"], ...]:
    """Returns hidden @ weight for each weight, in `hidden`'s type, summed in float32.

    The weights have the same bits and groups; they share one packing of the rows.
    """
    native_path()
    *batch, num_contracted = hidden.shape
    rows = hidden.reshape(-1, num_contracted)
    served = rows.astype(jnp.float32) if hidden.dtype == jnp.float16 else rows
    # Rows are packed in XLA's own memory, so that its memory analysis is complete; see
    # PackedFloats and SumFloats of native/kernels.h.
    floats_per_row = num_contracted + num_contracted % 2 + 2 * weights[0].num_groups + 1
    results = [
        *(
            jax.ShapeDtypeStruct((rows.shape[0], weight.num_features), served.dtype)
            for weight in weights
        ),
        jax.ShapeDtypeStruct((rows.shape[0] * floats_per_row,), jnp.float32),
    ]
    operands = [leaf for weight in weights for leaf in (weight.values, weight.scale)]
    *products, _ = jax.ffi.ffi_call("llmpq_jax_product", results)(served, *operands)
    return tuple(
        product.reshape(*batch, -1).astype(hidden.dtype) for product in products
    )


def fits_panels(
    weight: jax.Array | QArray, *, num_cuts: int = 1, num_row_cuts: int = 1
) -> bool:
    """Returns whether the native kernels can serve a weight.

    Groups are cut already if rows are to be cut. Each device must hold whole panels of
    features, and one group at 8 bits.
    """
    if isinstance(weight, QArray):
        if weight.zero_point is not None or weight.permutation is not None:
            return False
        if weight.bits == 4 and weight.group_size % ROWS_PER_WORD:
            return False
        # Checkpoints of others have smaller groups of int8.
        if weight.bits == 8 and weight.num_groups != num_row_cuts:
            return False
        num_features = weight.num_features
    elif weight.dtype == jnp.bfloat16 and weight.ndim == 2:
        num_features = weight.shape[1]
    else:
        return False
    return num_cuts == 1 or num_features % (PANEL * num_cuts) == 0


def to_panels(weight: jax.Array | QArray) -> PanelArray:
    """Returns a weight that `fits_panels` in panels, on its device."""
    if isinstance(weight, QArray):
        values, scale = _packed(weight)
        num_features = weight.num_features
    else:
        values = _in_panels(weight)
        scale = jnp.zeros((values.shape[0], 0, PANEL), jnp.float32)
        num_features = weight.shape[1]
    return PanelArray(values=values, scale=scale, num_padding=-num_features % PANEL)


@partial(jax.jit, static_argnames=("bits", "group_size"))
def round_to_panels(
    weight_FC: Float[Array, "F C"], *, bits: Bits, group_size: int
) -> PanelArray:
    """Rounds a matrix as a checkpoint has it, features first, straight into panels.

    The integers and scales are those of `quant.quantizer` on its transpose. At 16 bits
    the matrix is bfloat16 and keeps its values; at 8 a group is all rows.
    """
    native_path()
    num_features, num_contracted = weight_FC.shape
    num_panels = -(-num_features // PANEL)
    shape = (num_panels, num_contracted, PANEL)
    if bits == 4:
        shape = (num_panels, num_contracted // ROWS_PER_WORD, PANEL)
    num_groups = 0 if bits == 16 else num_contracted // group_size
    results = [
        jax.ShapeDtypeStruct(shape, VALUE_DTYPES[bits]),
        jax.ShapeDtypeStruct((num_panels, num_groups, PANEL), jnp.float32),
    ]
    call = jax.ffi.ffi_call("llmpq_jax_round", results)
    values, scale = call(weight_FC, bits=np.int64(bits), group=np.int64(group_size))
    return PanelArray(values, scale, num_padding=num_panels * PANEL - num_features)


@jax.jit
def _in_panels(weight: jax.Array) -> jax.Array:
    num_contracted, num_features = weight.shape
    padded = jnp.pad(weight, ((0, 0), (0, -num_features % PANEL)))
    return padded.reshape(num_contracted, -1, PANEL).swapaxes(0, 1)


@jax.jit
def _packed(weight: QArray) -> tuple[jax.Array, jax.Array]:
    values = unpacked_values(weight).astype(jnp.int32)
    num_features = values.shape[1]
    padding = -num_features % PANEL
    values = jnp.pad(values, ((0, 0), (0, padding)))
    scale = jnp.pad(weight.scale, ((0, 0), (0, padding)), constant_values=1.0)
    scale = scale.reshape(weight.num_groups, -1, PANEL).swapaxes(0, 1)
    if weight.bits == 8:
        return _in_panels(values.astype(jnp.int8)), scale
    last = jnp.arange(ROWS_PER_WORD) == ROWS_PER_WORD - 1
    words = values.reshape(-1, ROWS_PER_WORD, num_features + padding)
    nibbles = jnp.where(last[None, :, None], words, words + 8).astype(jnp.uint32) & 15
    shifts = 4 * jnp.arange(ROWS_PER_WORD, dtype=jnp.uint32)
    packed = jnp.sum(nibbles << shifts[None, :, None], axis=1, dtype=jnp.uint32)
    return packed.reshape(packed.shape[0], -1, PANEL).swapaxes(0, 1), scale
