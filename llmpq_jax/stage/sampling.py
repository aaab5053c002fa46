"""Chooses next tokens on the device that has the logits.

A row's randomness is a function of its own seed and of the position it draws for, so
that a request gets the same tokens whatever batch it shares.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32


class SamplingRows(NamedTuple):
    """How each row of a micro-batch is sampled.

    Attributes:
        temperature_B: 0 takes the likeliest token.
        top_k_B: Draws among so many likeliest tokens; 0 among all.
        top_p_B: Draws among the fewest tokens whose probabilities reach it; 1 among all.
        seed_B: Of the row's own random numbers.
    """

    temperature_B: Float[Array, " B"]
    top_k_B: Int[Array, " B"]
    top_p_B: Float[Array, " B"]
    seed_B: UInt32[Array, " B"]


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
    noise = jax.vmap(_gumbel, (0, 0, None))(rows.seed_B, position_B, logits_BV.shape[1])
    return kept + noise


def _draw(logits_BV: Array, rows: SamplingRows, position_B: Array) -> Array:
    perturbed = perturbed_logits(logits_BV, rows, position_B)
    return jnp.argmax(perturbed, axis=-1).astype(jnp.int32)


def _gumbel(seed: Array, position: Array, size: int) -> Array:
    key = jax.random.fold_in(jax.random.key(seed), position)
    return jax.random.gumbel(key, (size,), jnp.float32)


def _cut_off(scaled_BV: Array, rows: SamplingRows) -> Array:
    """Removes tokens outside the k likeliest, then outside the nucleus of what is left."""
    size = scaled_BV.shape[1]
    descending = -jnp.sort(-scaled_BV, axis=-1)
    num_kept = jnp.where(rows.top_k_B > 0, jnp.minimum(rows.top_k_B, size), size)
    rank = jnp.arange(size)[None, :]
    descending = jnp.where(rank < num_kept[:, None], descending, -jnp.inf)
    probability = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    in_nucleus = (before < rows.top_p_B[:, None]) & jnp.isfinite(descending)
    # The likeliest token always stays, whatever top_p says.
    in_nucleus = in_nucleus | (rank == 0)
    least = jnp.min(jnp.where(in_nucleus, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(scaled_BV >= least, scaled_BV, -jnp.inf)
