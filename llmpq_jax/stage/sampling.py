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


def choose_tokens(
    logits_BV: Float[Array, "B V"], rows: SamplingRows, position_B: Int[Array, " B"]
) -> Int[Array, " B"]:
    """Returns one token per row, drawn for `position_B`.

    Drawing is by the Gumbel trick: the argmax of logits / temperature + noise.
    """
    greedy = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    is_drawn = rows.temperature_B > 0

    def draw(_: None) -> Array:
        return jnp.where(is_drawn, _draw(logits_BV, rows, position_B), greedy)

    return jax.lax.cond(jnp.any(is_drawn), draw, lambda _: greedy, None)


def perturbed_logits(
    logits_BV: Float[Array, "B V"], rows: SamplingRows, position_B: Int[Array, " B"]
) -> Float[Array, "B V"]:
    """Returns what the argmax is taken of where a row is drawn; −∞ where cut off."""
    temperature = jnp.where(rows.temperature_B > 0, rows.temperature_B, 1.0)
    scaled = logits_BV / temperature[:, None]
    is_cut = jnp.any((rows.top_k_B > 0) | (rows.top_p_B < 1))
    kept = jax.lax.cond(is_cut, lambda s: _cut_off(s, rows), lambda s: s, scaled)
    draw = jax.vmap(_gumbel, (0, 0, None))
    noise = draw(jnp.asarray(rows.seed_B), position_B, logits_BV.shape[1])
    return kept + noise


def _draw(logits_BV: Array, rows: SamplingRows, position_B: Array) -> Array:
    perturbed = perturbed_logits(logits_BV, rows, position_B)
    return jnp.argmax(perturbed, axis=-1).astype(jnp.int32)


def _gumbel(seed: Array, position: Array, size: int) -> Array:
    key = jax.random.fold_in(jax.random.key(seed), position)
    return jax.random.gumbel(key, (size,), jnp.float32)


def _cut_off(scaled_BV: Array, rows: SamplingRows) -> Array:
    """Removes tokens outside the k likeliest, then outside the nucleus of what is left.

    Equal logits stay or go together. Nothing is sorted, which is slow on every
    backend: the least logit that stays is found bit by bit.
    """
    size = scaled_BV.shape[1]
    num_kept = jnp.where(rows.top_k_B > 0, jnp.minimum(rows.top_k_B, size), size)
    order_BV = _as_ordered_integers(scaled_BV)

    def are_enough(least_B: Array) -> Array:
        return jnp.sum(order_BV >= least_B[:, None], axis=-1) >= num_kept

    is_likely = order_BV >= _largest_where(are_enough, num_kept)[:, None]
    likely_BV = jnp.where(is_likely, scaled_BV, -jnp.inf)
    probability_BV = jax.nn.softmax(likely_BV, axis=-1)

    def is_nucleus(least_B: Array) -> Array:
        is_in = order_BV >= least_B[:, None]
        mass = jnp.sum(jnp.where(is_in, probability_BV, 0.0), axis=-1)
        # The likeliest token alone may do; that all together do not is rounding.
        return mass >= jnp.minimum(rows.top_p_B, jnp.sum(probability_BV, axis=-1))

    is_in_nucleus = order_BV >= _largest_where(is_nucleus, num_kept)[:, None]
    return jnp.where(is_in_nucleus, likely_BV, -jnp.inf)


def _as_ordered_integers(numbers: Array) -> Array:
    """Maps float32 to uint32 such that larger numbers get larger integers."""
    bits = jax.lax.bitcast_convert_type(numbers, jnp.uint32)
    is_negative = bits >> 31 == 1
    return jnp.where(is_negative, ~bits, bits | jnp.uint32(1 << 31))


def _largest_where(holds: Callable[[Array], Array], like_B: Array) -> Array:
    """Returns the largest integer at which a condition holds that fails above it."""

    def add_bit(step: Array, least_B: Array) -> Array:
        bit = jnp.uint32(1) << (31 - step).astype(jnp.uint32)
        return jnp.where(holds(least_B | bit), least_B | bit, least_B)

    return jax.lax.fori_loop(0, 32, add_bit, jnp.zeros_like(like_B, jnp.uint32))
