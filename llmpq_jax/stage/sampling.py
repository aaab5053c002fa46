"""Chooses next tokens on the device that has the logits.

A row's randomness is a function of its own seed and of the position it draws for, so
that a request gets the same tokens whatever batch it shares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

# As many of the likeliest tokens as OpenAI's tell of.
MAX_TOP_LOGPROBS = 20


class SamplingRows(NamedTuple):
    """How each row of a micro-batch is sampled.

    Attributes:
        temperature_B: 0 takes the likeliest token.
        top_k_B: Draws among so many likeliest tokens; 0 among all.
        top_p_B: Draws among the fewest tokens whose probabilities reach it; 1 among all.
        seed_B: Of the row's own random numbers.
    """

    temperature_B: Float[Array | np.ndarray, " B"]
    top_k_B: Int[Array | np.ndarray, " B"]
    top_p_B: Float[Array | np.ndarray, " B"]
    seed_B: UInt32[Array | np.ndarray, " B"]


def sampling_rows(
    temperature: list[float], top_k: list[int], top_p: list[float], seed: list[int]
) -> SamplingRows:
    """Packs choices, one entry per row, in the types the compiled stage expects."""
    return SamplingRows(
        temperature_B=np.asarray(temperature, np.float32),
        top_k_B=np.asarray(top_k, np.int32),
        top_p_B=np.asarray(top_p, np.float32),
        seed_B=np.asarray(seed, np.uint32),
    )


def greedy_rows(count: int) -> SamplingRows:
    """Packs rows that take the likeliest token."""
    return sampling_rows([0.0] * count, [0] * count, [1.0] * count, [0] * count)


def pack_rows(slot_B: np.ndarray, sampling: SamplingRows | None) -> np.ndarray:
    """Packs what the host says of each row into one array: int32 [1 or 5, B].

    Every array that is sent to a device costs a call of its own. The bits of other types
    are kept as they are; `unpack_rows` reads them again.
    """
    rows = (slot_B, *(sampling or ()))
    return np.stack([np.ascontiguousarray(row).view(np.int32) for row in rows])


def unpack_rows(
    rows: Int[Array, "N B"],
) -> tuple[Int[Array, " B"], SamplingRows | None]:
    """Returns what was packed; traced on the device."""
    slot_B = rows[0]
    if rows.shape[0] == 1:
        return slot_B, None
    bits = jax.lax.bitcast_convert_type
    temperature_B, top_k_B, top_p_B, seed_B = rows[1:]
    sampling = SamplingRows(
        temperature_B=bits(temperature_B, jnp.float32),
        top_k_B=top_k_B,
        top_p_B=bits(top_p_B, jnp.float32),
        seed_B=bits(seed_B, jnp.uint32),
    )
    return slot_B, sampling


def choose_tokens(
    logits_BV: Float[Array, "B V"], rows: SamplingRows, position_B: Int[Array, " B"]
) -> Int[Array, " B"]:
    """Returns one token per row, drawn for `position_B`.

    Drawing is by the Gumbel trick: the argmax of logits / temperature + noise.
    """
    greedy = _top(logits_BV)
    is_drawn = rows.temperature_B > 0

    def draw(_: None) -> Array:
        return jnp.where(is_drawn, _draw(logits_BV, rows, position_B), greedy)

    return jax.lax.cond(jnp.any(is_drawn), draw, lambda _: greedy, None)


def with_logprobs(
    logits_BV: Float[Array, "B V"], token_B: Int[Array, " B"]
) -> Int[Array, "B N"]:
    """Packs tokens with their log-probabilities and the likeliest ones of each row.

    The logits are those before temperature, as OpenAI's are.

    Returns:
        For each row the token, its log-probability, the likeliest tokens, and theirs;
        the bits of float32 numbers as int32. `unpack_logprobs` reads them.
    """
    logprob_BV = jax.nn.log_softmax(logits_BV, axis=-1)
    count = min(MAX_TOP_LOGPROBS, logits_BV.shape[-1])
    top_token_BK, slot_BK = jax.lax.top_k(logprob_BV, count)
    chosen_B1 = jnp.take_along_axis(logprob_BV, token_B[:, None], axis=-1)
    parts = (token_B[:, None], _bits(chosen_B1), slot_BK, _bits(top_token_BK))
    return jnp.concatenate(parts, axis=-1)


class Logprobs(NamedTuple):
    """What came of a step where log-probabilities were asked for.

    Attributes:
        token_B: Of each row.
        logprob_B: Of that token.
        top_token_BK: The likeliest tokens, in order.
        top_logprob_BK: Theirs.
    """

    token_B: Int[np.ndarray, " B"]
    logprob_B: Float[np.ndarray, " B"]
    top_token_BK: Int[np.ndarray, "B K"]
    top_logprob_BK: Float[np.ndarray, "B K"]


def unpack_logprobs(packed: Int[np.ndarray, "B N"]) -> Logprobs:
    """Returns what `with_logprobs` packed."""
    count = (packed.shape[1] - 2) // 2
    top_token_BK = packed[:, 2 : 2 + count]
    theirs = np.ascontiguousarray(packed[:, 2 + count :]).view(np.float32)
    chosen = np.ascontiguousarray(packed[:, 1]).view(np.float32)
    return Logprobs(packed[:, 0], chosen, top_token_BK, theirs)


def perturbed_logits(
    logits_BV: Float[Array, "B V"], rows: SamplingRows, position_B: Int[Array, " B"]
) -> Float[Array, "B V"]:
    """Returns what the argmax is taken of where a row is drawn; −∞ where cut off."""
    temperature = jnp.where(rows.temperature_B > 0, rows.temperature_B, 1.0)
    scaled = logits_BV / temperature[:, None]
    likely = _only_where(jnp.any(rows.top_k_B > 0), _top_k, scaled, rows.top_k_B)
    kept = _only_where(jnp.any(rows.top_p_B < 1), _nucleus, likely, rows.top_p_B)
    draw = jax.vmap(_gumbel, (0, 0, None))
    noise = draw(jnp.asarray(rows.seed_B), position_B, logits_BV.shape[1])
    return kept + noise


def _bits(numbers: Float[Array, "B K"]) -> Int[Array, "B K"]:
    return jax.lax.bitcast_convert_type(numbers, jnp.int32)


def _draw(logits_BV: Array, rows: SamplingRows, position_B: Array) -> Array:
    # As an array of its own: fused into what follows, each number is drawn twice.
    perturbed = jax.lax.optimization_barrier(
        perturbed_logits(logits_BV, rows, position_B)
    )
    return _top(perturbed)


def _top(score_BV: Array) -> Array:
    """Returns the first of the largest scores.

    In two passes that XLA turns into vector code; its argmax on a CPU is four times as
    slow. Should a row be of NaN, its last token is as good as any.
    """
    largest_B1 = jnp.max(score_BV, axis=-1, keepdims=True)
    size = score_BV.shape[-1]
    places = jnp.where(score_BV == largest_B1, jnp.arange(size, dtype=jnp.int32), size)
    return jnp.minimum(jnp.min(places, axis=-1), size - 1)


def _gumbel(seed: Array, position: Array, size: int) -> Array:
    key = jax.random.fold_in(jax.random.key(seed), position)
    return jax.random.gumbel(key, (size,), jnp.float32)


def _only_where(
    is_asked: Array,
    cut_off: Callable[[Array, Array], Array],
    scaled_BV: Array,
    choice_B: Float[Array | np.ndarray, " B"] | Int[Array | np.ndarray, " B"],
) -> Array:
    """Cuts tokens off if any row asks for it, which costs as much as the head."""

    def keep(scaled_BV: Array, _: Array) -> Array:
        return scaled_BV

    return jax.lax.cond(is_asked, cut_off, keep, scaled_BV, jnp.asarray(choice_B))


# Nothing is sorted below, which is slow on every backend: the least logit that stays is
# found bit by bit. Equal logits stay or go together.


def _top_k(scaled_BV: Array, top_k_B: Array) -> Array:
    """Removes tokens outside the k likeliest; none where k is 0."""
    size = scaled_BV.shape[1]
    num_kept = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, size), size)
    order_BV = _as_ordered_integers(scaled_BV)

    def are_enough(threshold_B: Array) -> Array:
        return jnp.sum(order_BV >= threshold_B[:, None], axis=-1) >= num_kept

    is_likely = order_BV >= _largest_where(are_enough, num_kept)[:, None]
    return jnp.where(is_likely, scaled_BV, -jnp.inf)


def _nucleus(scaled_BV: Array, top_p_B: Array) -> Array:
    """Removes tokens outside the fewest whose probabilities reach p."""
    order_BV = _as_ordered_integers(scaled_BV)
    probability_BV = jax.nn.softmax(scaled_BV, axis=-1)
    all_B = jnp.sum(probability_BV, axis=-1)

    def is_nucleus(threshold_B: Array) -> Array:
        is_in = order_BV >= threshold_B[:, None]
        mass = jnp.sum(jnp.where(is_in, probability_BV, 0.0), axis=-1)
        # The likeliest token alone may do; that all together do not is rounding.
        return mass >= jnp.minimum(top_p_B, all_B)

    is_in_nucleus = order_BV >= _largest_where(is_nucleus, top_p_B)[:, None]
    return jnp.where(is_in_nucleus, scaled_BV, -jnp.inf)


def _as_ordered_integers(numbers: Array) -> Array:
    """Maps float32 to uint32 such that larger numbers get larger integers."""
    bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
    is_negative = bits >> 31 == 1
    return jnp.where(is_negative, ~bits, bits | jnp.uint32(1 << 31))


def _largest_where(holds: Callable[[Array], Array], like_B: Array) -> Array:
    """Returns the largest integer at which a condition holds that fails above it."""

    def add_bit(step: Array, threshold_B: Array) -> Array:
        bit = jnp.uint32(1) << (31 - step).astype(jnp.uint32)
        return jnp.where(holds(threshold_B | bit), threshold_B | bit, threshold_B)

    return jax.lax.fori_loop(0, 32, add_bit, jnp.zeros_like(like_B, jnp.uint32))
