"""Integers of whole groups, at 4 bits two to a byte that are half a group apart.

A kernel that has unpacked a block of bytes holds two blocks of consecutive rows, and
multiplies each with consecutive hidden states; nothing is ever interleaved.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Int, Int8, Shaped

_NIBBLE_OFFSET = 8


def pack_groups(
    values: Int8[Array, "G _rows F"], *, bits: int
) -> Shaped[Array, "G _stored F"]:
    """Packs integers: at 4 bits a group's first half low, its second half high."""
    if bits == 8:
        return values
    low, high = jnp.split((values + _NIBBLE_OFFSET).astype(jnp.uint8), 2, axis=1)
    return low | (high << 4)


def unpack_groups(stored: Int[Array, "*axes"], *, bits: int) -> list[Array]:
    """Returns the integers of packed int32 values: first halves, then second ones."""
    if bits == 8:
        return [stored]
    return [(stored & 15) - _NIBBLE_OFFSET, (stored >> 4) - _NIBBLE_OFFSET]
