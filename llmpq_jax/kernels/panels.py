"""Weights in the layout of the native kernels: panels of 16 features.

A pass over a panel reads memory in order and meets a whole vector of features at every
contracted row. What the integers mean is unchanged; `native/kernels.h` draws the layout.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from llmpq_jax.quant import QArray, unpacked_values
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
        * The last `num_padding` features are not there; they have values 0.

    Attributes:
        values: The integers, or at 16 bits the weights themselves.
        scale: Their steps.
        num_padding: Features that fill the last panel up.
    """

    values: jax.Array
    scale: jax.Array
    num_padding: int = struct.field(pytree_node=False, default=0)

    @property
    def num_features(self) -> int:
        """F."""
        return self.values.shape[0] * PANEL - self.num_padding

    @property
    def num_groups(self) -> int:
        """G."""
        return self.scale.shape[1]

    @property
    def num_contracted(self) -> int:
        """C."""
        rows = self.values.shape[1]
        return rows * ROWS_PER_WORD if self.values.dtype == jnp.uint32 else rows

    @property
    def nbytes(self) -> int:
        """Bytes held, scales included."""
        return self.values.nbytes + self.scale.nbytes


def fits_panels(
    weight: jax.Array | QArray, *, num_cuts: int = 1, num_row_cuts: int = 1
) -> bool:
    """Says whether the native kernels can serve a weight.

    Args:
        weight: A matrix; where its rows are to be cut, its groups are cut already.
        num_cuts: How many devices its features are cut over; each must then hold whole
            panels.
        num_row_cuts: How many devices its rows are cut over; each then holds one group
            of int8.
    """
    if isinstance(weight, QArray):
        if weight.zero_point is not None or weight.permutation is not None:
            return False
        if weight.bits == 4 and weight.group_size % ROWS_PER_WORD:
            return False
        # Smaller groups of int8 are not ours, but files have them.
        if weight.bits == 8 and weight.num_groups != num_row_cuts:
            return False
        num_features = weight.num_features
    elif weight.dtype == jnp.bfloat16 and weight.ndim == 2:
        num_features = weight.shape[1]
    else:
        return False
    return num_cuts == 1 or num_features % (PANEL * num_cuts) == 0


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


def to_panels(weight: jax.Array | QArray) -> PanelArray:
    """Brings a weight that `fits_panels` into panels, where it lies."""
    if isinstance(weight, QArray):
        values, scale = _packed(weight)
        num_features = weight.num_features
    else:
        values = _in_panels(weight)
        scale = jnp.zeros((values.shape[0], 0, PANEL), jnp.float32)
        num_features = weight.shape[1]
    return PanelArray(values=values, scale=scale, num_padding=-num_features % PANEL)
