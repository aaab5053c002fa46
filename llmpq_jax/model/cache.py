"""Keys and values of the tokens so far: one preallocated block per layer."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class LayerCache(NamedTuple):
    """What one layer remembers of a group of rows.

    A row's token at position p is in slot p. Slots at and beyond a row's length hold
    padding or leftovers: attention masks them by position, and decoding overwrites
    each of them before its position is first looked at.

    Attributes:
        key: [B, S, K, H], rotated already where positions are rotary.
        value: [B, S, K, H].
    """

    key: Float[Array, "B S K H"]
    value: Float[Array, "B S K H"]

    def with_rows(self, new: LayerCache, first_row: Int[Array, ""]) -> LayerCache:
        """Writes whole rows, from slot 0 on; `new` may be shorter in both axes."""

        def write(block: Array, rows: Array) -> Array:
            zero = jnp.zeros_like(first_row)
            start = (first_row, zero, zero, zero)
            return jax.lax.dynamic_update_slice(block, rows, start)

        return LayerCache(
            key=write(self.key, new.key), value=write(self.value, new.value)
        )

    def with_tokens(
        self, new: LayerCache, first_slot_B: Int[Array, " B"]
    ) -> LayerCache:
        """Writes each row's new tokens at that row's own slot."""
        write = jax.vmap(
            lambda block, tokens, slot: jax.lax.dynamic_update_slice(
                block, tokens, (slot, jnp.zeros_like(slot), jnp.zeros_like(slot))
            )
        )
        return LayerCache(
            key=write(self.key, new.key, first_slot_B),
            value=write(self.value, new.value, first_slot_B),
        )
