"""Integers packed into 32-bit words, the lowest bits first."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int8, Int32, UInt8

from llmpq_jax.checkpoint.formats.quantized_matrix import LowBits


def unpack_rows(
    words: Int32[np.ndarray, "W F"], bits: LowBits
) -> UInt8[np.ndarray, "C F"]:
    """Unpacks words whose integers run down the rows."""
    per_word = 32 // bits
    unsigned = words.view(np.uint32)
    num_words, num_columns = words.shape
    values = np.empty((num_words, per_word, num_columns), np.uint8)
    for index in range(per_word):
        values[:, index] = (unsigned >> (bits * index)) & (2**bits - 1)
    return values.reshape(num_words * per_word, num_columns)


def unpack_columns(
    words: Int32[np.ndarray, "R W"], bits: LowBits
) -> UInt8[np.ndarray, "R F"]:
    """Unpacks words whose integers run along the columns."""
    per_word = 32 // bits
    unsigned = words.view(np.uint32)
    num_rows, num_words = words.shape
    values = np.empty((num_rows, num_words, per_word), np.uint8)
    for index in range(per_word):
        values[:, :, index] = (unsigned >> (bits * index)) & (2**bits - 1)
    return values.reshape(num_rows, num_words * per_word)


def centred(values: UInt8[np.ndarray, "C F"], bits: LowBits) -> Int8[np.ndarray, "C F"]:
    """Subtracts half the range: 0 to 2^bits − 1 becomes −2^(bits−1) to 2^(bits−1) − 1."""
    return (values - np.uint8(2 ** (bits - 1))).view(np.int8)


def pack_columns(
    values: UInt8[np.ndarray, "R F"], bits: LowBits
) -> Int32[np.ndarray, "R W"]:
    """Inverts `unpack_columns`; a last word that is not full is padded with zeros."""
    per_word = 32 // bits
    num_rows, num_columns = values.shape
    words = np.zeros((num_rows, -(-num_columns // per_word)), np.uint32)
    for index in range(per_word):
        column = values[:, index::per_word].astype(np.uint32)
        words[:, : column.shape[1]] |= column << np.uint32(bits * index)
    return words.view(np.int32)


def shifted(values: Int8[np.ndarray, "R F"], bits: LowBits) -> UInt8[np.ndarray, "R F"]:
    """Inverts `centred`."""
    return values.view(np.uint8) + np.uint8(2 ** (bits - 1))
