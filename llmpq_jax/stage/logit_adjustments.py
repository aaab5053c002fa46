"""Changes to logits before a token is chosen: biases, penalties, and tokens that are allowed.

They are known to the scheduler alone, so they come with each step, a row of numbers for
each sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_WORD_BITS = 32


class TokenAdjustment(NamedTuple):
    """A change of one token's logit x: x + bias, divided or multiplied, less a penalty.

    Attributes:
        bias: Number that is added first (OpenAI's `logit_bias`).
        factor: Repetition penalty (arXiv 1909.05858, section 4.1): what a positive sum is
            divided by, and a negative one multiplied by.
        penalty: Number that is subtracted last, for presence and frequency.
    """

    bias: float = 0.0
    factor: float = 1.0
    penalty: float = 0.0


def num_words(vocabulary_size: int) -> int:
    """Returns the 32-bit words that have one bit for each token."""
    return -(-vocabulary_size // _WORD_BITS)


def pack_adjustments(
    rows: Sequence[Mapping[int, TokenAdjustment]],
    allowed: Sequence[np.ndarray | None],
    *,
    vocabulary_size: int,
    num_adjusted: int,
) -> Int[np.ndarray, "B N"]:
    """Packs each row's adjustments into one int32 array, which is one transfer.

    Args:
        rows: Adjusted tokens of each row, at most `num_adjusted`.
        allowed: Words of each row in which the bits of allowed tokens are set, the least
            significant bit first; None where all tokens are.
        vocabulary_size: Number of tokens.
        num_adjusted: Largest number of adjusted tokens, which gives the array its size.
    """
    # The token past the last one is none, so what is set there has no effect.
    token_BA = np.full((len(rows), num_adjusted), vocabulary_size, np.int32)
    value_3BA = np.zeros((3, len(rows), num_adjusted), np.float32)
    value_3BA[1] = 1.0
    words = num_words(vocabulary_size)
    allowed_BW = np.full((len(rows), words), -1, np.int32)
    for row, (adjusted, mask) in enumerate(zip(rows, allowed, strict=True)):
        if adjusted:
            count = len(adjusted)
            token_BA[row, :count] = list(adjusted)
            value_3BA[:, row, :count] = np.array(list(adjusted.values())).T
        if mask is not None:
            allowed_BW[row] = mask.view(np.int32)[:words]
    return np.concatenate([token_BA, *value_3BA.view(np.int32), allowed_BW], axis=1)


def adjusted_logits(
    logits_BV: Float[Array, "B V"], packed_BN: Int[Array, "B N"]
) -> Float[Array, "B V"]:
    """Applies what `pack_adjustments` packed; −∞ for tokens that are not allowed."""
    num_rows, size = logits_BV.shape
    words = num_words(size)
    num_adjusted = (packed_BN.shape[1] - words) // 4
    token_BA, *bits = jnp.split(packed_BN[:, : 4 * num_adjusted], 4, axis=1)
    bias_BA, factor_BA, penalty_BA = (
        jax.lax.bitcast_convert_type(each, jnp.float32) for each in bits
    )
    row_B1 = jnp.arange(num_rows)[:, None]
    value_BA = logits_BV[row_B1, jnp.minimum(token_BA, size - 1)] + bias_BA
    repeated_BA = jnp.where(value_BA > 0, value_BA / factor_BA, value_BA * factor_BA)
    adjusted_BV = logits_BV.at[row_B1, token_BA].set(
        repeated_BA - penalty_BA, mode="drop"
    )
    allowed_BW = packed_BN[:, 4 * num_adjusted :]
    bit_BWb = (allowed_BW[:, :, None] >> jnp.arange(_WORD_BITS)[None, None]) & 1
    is_allowed_BV = bit_BWb.reshape(num_rows, -1)[:, :size] == 1
    return jnp.where(is_allowed_BV, adjusted_BV, -jnp.inf)
