"""Bits of a weight, groups that share a scale, and the bytes they take.

Planning and running must agree on these numbers to the byte, so they are defined once,
here. Tests prove that packed arrays have exactly the bytes this module predicts.
"""

from __future__ import annotations

from typing import Literal

Bits = Literal[4, 8, 16]
LowBits = Literal[4, 8]
HeadBits = Literal[8, 16]
KvBits = Literal[8, 16]
WireBits = Literal[8, 16]
Activations = Literal["float32", "bfloat16", "float16"]
Rounding = Literal["nearest", "clip", "learned", "gptq"]

ALL_BITS: tuple[Bits, ...] = (16, 8, 4)
LOW_BITS: tuple[LowBits, ...] = (8, 4)
GROUP_SIZES = (128, 64, 32)
SCALE_BYTES = 4
ACTIVATION_BYTES: dict[Activations, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


def group_size_for(num_contracted: int, requested: int) -> int:
    """Returns the size of the groups along a contracted axis that share a scale.

    It is the largest of 128, 64 and 32 that is at most `requested` and divides the
    axis; where none does, the whole axis is one group.
    """
    for size in GROUP_SIZES:
        if size <= requested and num_contracted % size == 0:
            return size
    return num_contracted


def matrix_bytes(
    num_contracted: int, num_features: int, *, bits: Bits, group: int
) -> int:
    """Returns the bytes of a weight [C, F] with its scales.

    int8 has one scale per feature; int4 is packed two to a byte along the features,
    with one scale for each `group` rows of each feature.
    """
    if bits == 16:
        return 2 * num_contracted * num_features
    if bits == 8:
        scales = scale_bytes(num_contracted, num_features, bits=bits, group=group)
        return num_contracted * num_features + scales
    packed = num_contracted * (num_features // 2)
    return packed + scale_bytes(num_contracted, num_features, bits=bits, group=group)


def scale_bytes(
    num_contracted: int, num_features: int, *, bits: Bits, group: int
) -> int:
    """Returns the bytes of the scales among those of `matrix_bytes`."""
    if bits == 16:
        return 0
    num_groups = 1 if bits == 8 else num_contracted // group
    return SCALE_BYTES * num_groups * num_features


def wire_token_bytes(
    hidden_size: int, activation_bytes: int, *, wire_bits: WireBits
) -> int:
    """Returns the bytes of one token's hidden state between two stages.

    At 16 bits it keeps the activations' own type; at 8, each token has a scale.
    """
    if wire_bits == 16:
        return hidden_size * activation_bytes
    return hidden_size + SCALE_BYTES


def kv_token_bytes(
    num_kv_heads: int, head_dim: int, activation_bytes: int, *, kv_bits: KvBits
) -> int:
    """Returns the bytes of one token's key and value in one layer.

    At 16 bits they keep the activations' own type; at 8, each head of each has a scale.
    """
    if kv_bits == 16:
        return 2 * num_kv_heads * head_dim * activation_bytes
    return 2 * num_kv_heads * (head_dim + SCALE_BYTES)
