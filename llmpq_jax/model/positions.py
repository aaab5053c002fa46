"""Positions of tokens: rotations, masks and ALiBi slopes, computed once per step."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llmpq_jax.arch.architecture import Architecture, Rope


class Context(NamedTuple):
    """Positions that all layers of a step share.

    Attributes:
        position_BT: Position of each query token in its row.
        slot_S: Position of each key slot.
        cosine_BTH: Cosine of the rotation angles, once for each half of a head; None
            without rope.
        sine_BTH: Sine of the rotation angles, negative for the first half of a head;
            None without rope.
    """

    position_BT: Int[Array, "B T"]
    slot_S: Int[Array, " S"]
    cosine_BTH: Float[Array, "B T H"] | None
    sine_BTH: Float[Array, "B T H"] | None

    def some_tokens(self, first: Int[Array, ""], count: int) -> Context:
        """Returns the context of some tokens of the concatenation of all rows."""
        position_BT, cosine_BTH, sine_BTH = jax.tree.map(
            lambda array: jax.lax.dynamic_slice_in_dim(
                array.reshape(-1, *array.shape[2:]), first, count
            )[None],
            (self.position_BT, self.cosine_BTH, self.sine_BTH),
        )
        return Context(position_BT, self.slot_S, cosine_BTH, sine_BTH)

    def visible_BTS(self, window: int | None) -> Bool[Array, "B T S"]:
        """Returns which keys a query attends to: its own and earlier ones in a window."""
        distance = self.position_BT[:, :, None] - self.slot_S[None, None, :]
        visible = distance >= 0
        return visible if window is None else visible & (distance < window)


def fresh_context(
    architecture: Architecture, num_rows: int, num_tokens: int
) -> Context:
    """Returns the context of whole prompts, each from position 0, padded on the right."""
    position = jnp.broadcast_to(jnp.arange(num_tokens), (num_rows, num_tokens))
    return cached_context(architecture, position, num_tokens)


def cached_context(
    architecture: Architecture, position_BT: Int[Array, "B T"], num_slots: int
) -> Context:
    """Returns the context of tokens that continue a cache of `num_slots` slots."""
    cosine = sine = None
    if architecture.rope is not None:
        rates = jnp.asarray(rotation_rates(architecture.rope, architecture.head_dim))
        # bfloat16 rounds position 257 to 256, so angles are computed in float32.
        angles = position_BT[:, :, None].astype(jnp.float32) * rates[None, None, :]
        # Joined here, once: XLA keeps the joined array, but would compute a bare cosine
        # again for every head of every layer.
        cosine = jnp.concatenate([jnp.cos(angles)] * 2, axis=-1)
        sine = jnp.concatenate([-jnp.sin(angles), jnp.sin(angles)], axis=-1)
    return Context(
        position_BT=position_BT,
        slot_S=jnp.arange(num_slots),
        cosine_BTH=cosine,
        sine_BTH=sine,
    )


def rotation_rates(rope: Rope, head_dim: int) -> np.ndarray:
    """Returns float32 rotation rates, one per pair: theta^(−2r / H), scaled.

    "llama3" follows the Llama 3.1 release: rates whose wavelength exceeds the original
    context over the low-frequency factor are divided by the factor, those below it
    over the high-frequency factor stay, and between the two they are blended.
    """
    rates = rope.theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.scaling == "linear":
        rates = rates / rope.factor
    elif rope.scaling == "llama3":
        turns = rope.original_positions * rates / (2 * math.pi)
        low, high = rope.low_frequency_factor, rope.high_frequency_factor
        share_kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
        rates = rates * (share_kept + (1 - share_kept) / rope.factor)
    return rates.astype(np.float32)


def rotate(
    hidden_BTNH: Float[Array, "B T N H"], context: Context
) -> Float[Array, "B T N H"]:
    """Rotates each head's pairs (r, r + H/2) by its token's angles."""
    if context.cosine_BTH is None or context.sine_BTH is None:
        return hidden_BTNH
    wide = hidden_BTNH.astype(jnp.float32)
    # Halves are swapped by a reversal: XLA would write a concatenation of them element
    # by element.
    branch = wide.reshape(*wide.shape[:-1], 2, -1)
    exchanged = jnp.flip(branch, axis=-2).reshape(wide.shape)
    cosine, sine = context.cosine_BTH[:, :, None], context.sine_BTH[:, :, None]
    return (wide * cosine + exchanged * sine).astype(hidden_BTNH.dtype)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Returns float32 slopes, one per head (Press et al., arXiv 2108.12409).

    For a power of two n they are 2^(−8i/n), i from 1; other counts take the slopes of
    the power below and then every second one of the power above.
    """

    def powers(count: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / count) for i in range(count)]

    below = 1 << (num_heads.bit_length() - 1)
    slopes = powers(below) + powers(2 * below)[::2][: num_heads - below]
    return np.asarray(slopes, np.float32)
