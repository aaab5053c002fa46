"""Keys and values of the tokens so far: one preallocated block per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from llmpq_jax.quant import round_rows
from llmpq_jax.spec.architecture import Architecture
from llmpq_jax.spec.precision import KvBits


class LayerCache(NamedTuple):
    """What one layer remembers of a group of rows.

    A row's token at position p is in slot p. Slots at and beyond a row's length hold
    padding or leftovers: attention masks them by position, and decoding overwrites
    each of them before its position is first looked at.

    Attributes:
        key: [B, S, K, H], rotated already where positions are rotary; of the
            activations' type, or at 8 bits int8.
        value: [B, S, K, H], likewise.
        key_scale: [B, S, K, 1] at 8 bits: a key is its integers times its scale.
        value_scale: Likewise.
    """

    key: Shaped[Array, "B S K H"]
    value: Shaped[Array, "B S K H"]
    key_scale: Float[Array, "B S K 1"] | None = None
    value_scale: Float[Array, "B S K 1"] | None = None

    @property
    def num_slots(self) -> int:
        """S."""
        return self.key.shape[1]

    @property
    def kv_bits(self) -> KvBits:
        """16 stands for the activations' type."""
        return 16 if self.key_scale is None else 8

    def at(self, kv_bits: KvBits) -> LayerCache:
        """Returns it at 16 bits, as it is, or rounded to 8."""
        if kv_bits == self.kv_bits:
            return self
        key, key_scale = round_rows(self.key)
        value, value_scale = round_rows(self.value)
        return LayerCache(key, value, key_scale, value_scale)

    def rows(self, first: int, end: int) -> LayerCache:
        """Takes some of its rows."""
        return jax.tree.map(lambda block: block[first:end], self)

    def some_rows(self, first_row: Int[Array, ""], count: int) -> LayerCache:
        """Takes `count` rows from one on that is known only when the stage runs."""
        return jax.tree.map(
            lambda block: jax.lax.dynamic_slice_in_dim(block, first_row, count), self
        )

    def with_rows(self, new: LayerCache, first_row: Int[Array, ""]) -> LayerCache:
        """Writes whole rows, from slot 0 on; `new` may be shorter in both axes."""

        def write(block: Array, rows: Array) -> Array:
            zero = jnp.zeros_like(first_row)
            start = (first_row, zero, zero, zero)
            return jax.lax.dynamic_update_slice(block, rows, start)

        return jax.tree.map(write, self, new.at(self.kv_bits))

    def with_tokens(
        self, new: LayerCache, first_slot_B: Int[Array, " B"]
    ) -> LayerCache:
        """Writes each row's new tokens at that row's own slot."""
        write = jax.vmap(
            lambda block, tokens, slot: jax.lax.dynamic_update_slice(
                block, tokens, (slot, jnp.zeros_like(slot), jnp.zeros_like(slot))
            )
        )
        return jax.tree.map(
            lambda block, tokens: write(block, tokens, first_slot_B),
            self,
            new.at(self.kv_bits),
        )


def join_rows(caches: Sequence[LayerCache]) -> LayerCache:
    """Puts the rows of several caches of a layer behind one another."""
    if len(caches) == 1:
        return caches[0]
    return jax.tree.map(lambda *blocks: jnp.concatenate(blocks), *caches)


def make_cache(
    make: Callable[[tuple[int, ...], Any], Any],
    architecture: Architecture,
    *,
    num_rows: int,
    num_slots: int,
    dtype: jnp.dtype,
    kv_bits: KvBits,
) -> LayerCache:
    """Makes one layer's cache of blocks that `make` makes of a shape and a type."""
    slots = (num_rows, num_slots, architecture.num_kv_heads)
    block = (*slots, architecture.head_dim)
    if kv_bits == 16:
        return LayerCache(key=make(block, dtype), value=make(block, dtype))
    return LayerCache(
        key=make(block, jnp.int8),
        value=make(block, jnp.int8),
        key_scale=make((*slots, 1), jnp.float32),
        value_scale=make((*slots, 1), jnp.float32),
    )
