"""The record of a quantised weight."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import numpy as np
from flax import struct

# A checkpoint's integers are NumPy's until they are placed.
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
        values: The integers.
        scale: Their steps.
        bits: 4 or 8; part of the type, not of the data.
        zero_point: What integer stands for zero.
        permutation: Which input meets which row.
    """

    values: Leaf
    scale: Leaf
    bits: Literal[4, 8] = struct.field(pytree_node=False)
    zero_point: Leaf | None = None
    permutation: Leaf | None = None

    @property
    def num_contracted(self) -> int:
        """C."""
        return self.values.shape[0]

    @property
    def num_features(self) -> int:
        """F."""
        return self.scale.shape[1]

    @property
    def num_groups(self) -> int:
        """G."""
        return self.scale.shape[0]

    @property
    def group_size(self) -> int:
        """Rows that share a scale."""
        return self.num_contracted // self.num_groups

    @property
    def nbytes(self) -> int:
        """Bytes held, scales included."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))
