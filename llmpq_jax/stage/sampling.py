"""Samples next tokens on the device that has the logits.

A row's random numbers are a function of its own seed and of the position they are drawn
for, so that a request gets the same tokens in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

# Largest number of likeliest tokens, as in OpenAI's API.
MAX_TOP_LOGPROBS = 20
# Logits divided by less may overflow; noise is nothing to them long before. The inverse of
# a larger temperature may underflow; they are nothing to noise long before.
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 1e-30, 1e30
_WORD = 2**32 - 1
# What takes the place of a token where the logits are NaN or infinite.
NOT_FINITE = -1


class SamplingRows(NamedTuple):
    """Sampling parameters of each row of a micro-batch.

    Attributes:
        temperature_B: Divisor of the logits; 0 takes the likeliest token.
        top_k_B: Number of likeliest tokens to draw from; 0 for all.
        top_p_B: Probability mass of the likeliest tokens to draw from; 1 for all.
        min_p_B: Smallest probability to draw, relative to that of the likeliest token; 0
            for all.
        seed_low_B: Lower 32 bits of the seed of the row's random numbers.
        seed_high_B: Upper 32 bits of that seed.
    """

    temperature_B: Float[Array | np.ndarray, " B"]
    top_k_B: Int[Array | np.ndarray, " B"]
    top_p_B: Float[Array | np.ndarray, " B"]
    min_p_B: Float[Array | np.ndarray, " B"]
    seed_low_B: UInt32[Array | np.ndarray, " B"]
    seed_high_B: UInt32[Array | np.ndarray, " B"]


def sampling_rows(
    temperature: Sequence[int | float],
    top_k: Sequence[int],
    top_p: Sequence[int | float],
    seed: Sequence[int],
    min_p: Sequence[int | float] | None = None,
) -> SamplingRows:
    """Returns parameters, one entry per row, in the types that a compiled stage takes.

    A seed is an integer of 64 bits; a negative one is the same as its two's complement.
    """
    temperature_B = np.minimum(np.asarray(temperature, np.float32), _MAX_TEMPERATURE)
    return SamplingRows(
        temperature_B=np.where(
            temperature_B < _MIN_TEMPERATURE, np.float32(0), temperature_B
        ),
        top_k_B=np.asarray(top_k, np.int32),
        # At 0 the likeliest token is left, as at any number below its probability.
        top_p_B=np.maximum(np.asarray(top_p, np.float32), np.finfo(np.float32).tiny),
        min_p_B=np.asarray([0.0] * len(seed) if min_p is None else min_p, np.float32),
        seed_low_B=np.asarray([each & _WORD for each in seed], np.uint32),
        seed_high_B=np.asarray([each >> 32 & _WORD for each in seed], np.uint32),
    )


def greedy_rows(count: int) -> SamplingRows:
    """Returns parameters of rows that take the likeliest token."""
    return sampling_rows([0.0] * count, [0] * count, [1.0] * count, [0] * count)


def pack_rows(slot_B: np.ndarray, sampling: SamplingRows | None) -> np.ndarray:
    """Packs the host's numbers of each row into one int32 array, [1 or 7, B].

    One array is one transfer to the device. Values of other types keep their bits;
    `unpack_rows` restores them.
    """
    rows = (slot_B, *(sampling or ()))
    return np.stack([np.ascontiguousarray(row).view(np.int32) for row in rows])


def unpack_rows(
    rows: Int[Array, "N B"],
) -> tuple[Int[Array, " B"], SamplingRows | None]:
    """Restores what `pack_rows` packed; traced on the device."""
    slot_B = rows[0]
    if rows.shape[0] == 1:
        return slot_B, None
    bits = jax.lax.bitcast_convert_type
    temperature_B, top_k_B, top_p_B, min_p_B, seed_low_B, seed_high_B = rows[1:]
    sampling = SamplingRows(
        temperature_B=bits(temperature_B, jnp.float32),
        top_k_B=top_k_B,
        top_p_B=bits(top_p_B, jnp.float32),
        min_p_B=bits(min_p_B, jnp.float32),
        seed_low_B=bits(seed_low_B, jnp.uint32),
        seed_high_B=bits(seed_high_B, jnp.uint32),
    )
    return slot_B, sampling


def choose_tokens(
    logits_BV: Float[Array, "B V"], rows: SamplingRows, position_B: Int[Array, " B"]
) -> Int[Array, " B"]:
    """Returns one token per row, sampled for `position_B`.

    Uses the Gumbel-max trick: the argmax of logits / temperature + Gumbel noise. A row
    whose largest logit is no finite number gets `NOT_FINITE`.
    """
    greedy = _top(logits_BV)
    is_drawn = rows.temperature_B > 0

    def draw(_: None) -> Array:
        return jnp.where(is_drawn, _draw(logits_BV, rows, position_B), greedy)

    chosen = jax.lax.cond(jnp.any(is_drawn), draw, lambda _: greedy, None)
    is_finite = jnp.isfinite(jnp.max(logits_BV, axis=-1))
    return jnp.where(is_finite, chosen, NOT_FINITE)


def with_logprobs(
    logits_BV: Float[Array, "B V"], token_B: Int[Array, " B"]
) -> Int[Array, "B N"]:
    """Packs tokens with their log-probabilities and the likeliest tokens of each row.

    Log-probabilities are of the logits before temperature, as in OpenAI's API.

    Returns:
        For each row the token, its log-probability, the likeliest tokens, and their
        log-probabilities; float32 bits as int32. `unpack_logprobs` restores them.
    """
    logprob_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    count = min(MAX_TOP_LOGPROBS, logits_BV.shape[-1])
    top_token_BK, slot_BK = jax.lax.top_k(logprob_BV, count)
    chosen_B1 = jnp.take_along_axis(logprob_BV, token_B[:, None], axis=-1)
    parts = (token_B[:, None], _bits(chosen_B1), slot_BK, _bits(top_token_BK))
    return jnp.concatenate(parts, axis=-1)


class Logprobs(NamedTuple):
    """Result of a step with log-probabilities.

    Attributes:
        token_B: Chosen token of each row.
        logprob_B: Log-probability of the chosen token.
        top_token_BK: Likeliest tokens of each row, in descending order.
        top_logprob_BK: Log-probabilities of the likeliest tokens.
    """

    token_B: Int[np.ndarray, " B"]
    logprob_B: Float[np.ndarray, " B"]
    top_token_BK: Int[np.ndarray, "B K"]
    top_logprob_BK: Float[np.ndarray, "B K"]


def unpack_logprobs(packed: Int[np.ndarray, "B N"]) -> Logprobs:
    """Restores what `with_logprobs` packed."""
    count = (packed.shape[1] - 2) // 2
    top_token_BK = packed[:, 2 : 2 + count]
    top_logprob_BK = np.ascontiguousarray(packed[:, 2 + count :]).view(np.float32)
    logprob_B = np.ascontiguousarray(packed[:, 1]).view(np.float32)
    return Logprobs(packed[:, 0], logprob_B, top_token_BK, top_logprob_BK)


def perturbed_logits(
    logits_BV: Float[Array, "B V"], rows: SamplingRows, position_B: Int[Array, " B"]
) -> Float[Array, "B V"]:
    """Returns logits / temperature + Gumbel noise; −∞ for tokens cut off.

    They are cut off by top-k, then by min-p, then by top-p.
    """
    temperature = jnp.where(rows.temperature_B > 0, rows.temperature_B, 1.0)
    # Before the division, by which different logits may become equal.
    likely = _cut_off_if(jnp.any(rows.top_k_B > 0), _top_k, logits_BV, rows.top_k_B)
    scaled = likely / temperature[:, None]
    possible = _cut_off_if(jnp.any(rows.min_p_B > 0), _min_p, scaled, rows.min_p_B)
    kept = _cut_off_if(jnp.any(rows.top_p_B < 1), _nucleus, possible, rows.top_p_B)
    draw = jax.vmap(_gumbel, (0, 0, None))
    seed_B2 = jnp.stack([rows.seed_high_B, rows.seed_low_B], axis=-1)
    noise = draw(seed_B2, position_B, logits_BV.shape[1])
    return kept + noise


def _bits(numbers: Float[Array, "B K"]) -> Int[Array, "B K"]:
    return jax.lax.bitcast_convert_type(numbers, jnp.int32)


def _draw(logits_BV: Array, rows: SamplingRows, position_B: Array) -> Array:
    # Without the barrier XLA fuses this into both passes of `_top`, and draws twice.
    perturbed = jax.lax.optimization_barrier(
        perturbed_logits(logits_BV, rows, position_B)
    )
    return _top(perturbed)


def _top(score_BV: Array) -> Array:
    """Returns the index of the first of each row's largest scores.

    XLA vectorises its two passes; XLA's own argmax is four times as slow on a CPU. In a
    row of NaN it returns the last index.
    """
    largest_B1 = jnp.max(score_BV, axis=-1, keepdims=True)
    size = score_BV.shape[-1]
    index = jnp.where(score_BV == largest_B1, jnp.arange(size, dtype=jnp.int32), size)
    return jnp.minimum(jnp.min(index, axis=-1), size - 1)


def _gumbel(seed_words: Array, position: Array, size: int) -> Array:
    # The key that `jax.random.key` makes of a seed, which takes 32 bits only by default.
    seed_key = jax.random.wrap_key_data(seed_words, impl="threefry2x32")
    key = jax.random.fold_in(seed_key, position)
    return jax.random.gumbel(key, (size,), jnp.float32)


def _cut_off_if(
    is_needed: Array,
    cut_off: Callable[[Array, Array], Array],
    logits_BV: Array,
    choice_B: Float[Array | np.ndarray, " B"] | Int[Array | np.ndarray, " B"],
) -> Array:
    """Cuts tokens off only if a row needs it, because it takes as long as the head."""

    def keep(logits_BV: Array, _: Array) -> Array:
        return logits_BV

    return jax.lax.cond(is_needed, cut_off, keep, logits_BV, jnp.asarray(choice_B))


# Sorting is slow on every backend. Instead the smallest logit that is kept is found bit by
# bit; equal logits are kept or cut off together.


def _top_k(logits_BV: Array, top_k_B: Array) -> Array:
    """Cuts off all but the k likeliest tokens; none where k is 0."""
    size = logits_BV.shape[1]
    num_kept = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, size), size)
    order_BV = _as_ordered_integers(logits_BV)

    def are_enough(threshold_B: Array) -> Array:
        return jnp.sum(order_BV >= threshold_B[:, None], axis=-1) >= num_kept

    is_likely = order_BV >= _largest_where(are_enough, num_kept)[:, None]
    return jnp.where(is_likely, logits_BV, -jnp.inf)


def _min_p(scaled_BV: Array, min_p_B: Array) -> Array:
    """Cuts off all tokens of less than a share of the likeliest one's probability."""
    threshold_B1 = (
        jnp.max(scaled_BV, axis=-1, keepdims=True) + jnp.log(min_p_B)[:, None]
    )
    return jnp.where(scaled_BV >= threshold_B1, scaled_BV, -jnp.inf)


def _nucleus(scaled_BV: Array, top_p_B: Array) -> Array:
    """Cuts off all but the fewest likeliest tokens whose probabilities sum to p or more."""
    order_BV = _as_ordered_integers(scaled_BV)
    probability_BV = jax.nn.softmax(scaled_BV, axis=-1)
    all_B = jnp.sum(probability_BV, axis=-1)

    def is_nucleus(threshold_B: Array) -> Array:
        is_in = order_BV >= threshold_B[:, None]
        mass = jnp.sum(jnp.where(is_in, probability_BV, 0.0), axis=-1)
        # By rounding all probabilities together may sum to less than p.
        return mass >= jnp.minimum(top_p_B, all_B)

    is_in_nucleus = order_BV >= _largest_where(is_nucleus, top_p_B)[:, None]
    return jnp.where(is_in_nucleus, scaled_BV, -jnp.inf)


def _as_ordered_integers(numbers: Array) -> Array:
    """Maps float32 to uint32 so that larger numbers get larger integers."""
    bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
    is_negative = bits >> 31 == 1
    return jnp.where(is_negative, ~bits, bits | jnp.uint32(1 << 31))


def _largest_where(holds: Callable[[Array], Array], like_B: Array) -> Array:
    """Returns the largest integer at which a condition holds, which fails above it."""

    def add_bit(step: Array, threshold_B: Array) -> Array:
        bit = jnp.uint32(1) << (31 - step).astype(jnp.uint32)
        return jnp.where(holds(threshold_B | bit), threshold_B | bit, threshold_B)

    return jax.lax.fori_loop(0, 32, add_bit, jnp.zeros_like(like_B, jnp.uint32))
