"""Precisions of weights, caches and hidden states, and the bytes that they take.

Planning and running must agree on these numbers to the byte, so they are defined only
here. Tests check that packed arrays have exactly the bytes that this module predicts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Bits = Literal[4, 8, 16, 32]
LowBits = Literal[4, 8]
HeadBits = Literal[8, 16, 32]
VectorBits = Literal[16, 32]
KvBits = Literal[8, 16]
WireBits = Literal[8, 16]
Activations = Literal["float32", "bfloat16", "float16"]
Rounding = Literal["nearest", "clip", "learned", "gptq"]

ALL_BITS: tuple[Bits, ...] = (32, 16, 8, 4)
# 32 bits serve a float32 checkpoint as it is, which few ask for at twice the bytes.
USUAL_BITS: tuple[Bits, ...] = (16, 8, 4)
LOW_BITS: tuple[LowBits, ...] = (8, 4)
GROUP_SIZES = (128, 64, 32)
SCALE_BYTES = 4
ACTIVATION_BYTES: dict[Activations, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


def vector_bits(bits: Bits) -> VectorBits:
    """Returns the bits of norms and biases next to matrices of these bits.

    The embedding has them too, next to a head of these bits.
    """
    return 32 if bits == 32 else 16


def check_activations(activations: Activations, bits: Iterable[Bits]) -> None:
    """Checks that hidden states have the precision of the weights.

    Raises:
        ValueError: Weights of 32 bits would be rounded in every product.
    """
    if activations != "float32" and 32 in bits:
        msg = f"weights of 32 bits with activations in {activations}: expected float32 activations, or 16 bits and fewer; measure with `llmpq-jax profile --activations float32`"
        raise ValueError(msg)


def group_size_for(num_contracted: int, requested: int) -> int:
    """Returns the number of weights along a contracted axis that share an int4 scale.

    It is the largest of 128, 64 and 32 that is at most `requested` and divides the
    axis; if none does, the whole axis is one group.
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
    with one scale per feature and `group` contracted elements; 16 and 32 bits are floats
    without scales.
    """
    packed = num_contracted * (num_features * bits // 8)
    return packed + scale_bytes(num_contracted, num_features, bits=bits, group=group)


def scale_bytes(
    num_contracted: int, num_features: int, *, bits: Bits, group: int
) -> int:
    """Returns the part of `matrix_bytes` that the scales take."""
    if bits in (16, 32):
        return 0
    num_groups = 1 if bits == 8 else num_contracted // group
    return SCALE_BYTES * num_groups * num_features


def wire_token_bytes(
    hidden_size: int, activation_bytes: int, *, wire_bits: WireBits
) -> int:
    """Returns the bytes of one token's hidden state between two stages.

    At 16 bits it has the type of the activations; at 8, one scale per token.
    """
    if wire_bits == 16:
        return hidden_size * activation_bytes
    return hidden_size + SCALE_BYTES


def kv_token_bytes(
    num_kv_heads: int, head_dim: int, activation_bytes: int, *, kv_bits: KvBits
) -> int:
    """Returns the bytes of one token's keys and values in one layer.

    At 16 bits they have the type of the activations; at 8, one scale per head for keys
    and for values.
    """
    if kv_bits == 16:
        return 2 * num_kv_heads * head_dim * activation_bytes
    return 2 * num_kv_heads * (head_dim + SCALE_BYTES)
