"""The key-value cache: one preallocated block per layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.quant import round_rows
from llmpq_jax.schema.precision import KvBits


class LayerCache(NamedTuple):
    """One layer's keys and values of a group of sequences, which are its rows.

    A row's token at position p is in slot p. Slots at and beyond a row's length hold
    padding or older tokens: attention masks them by position, and decoding overwrites
    each of them before its position is first attended to.

    Attributes:
        key: Keys [B, S, K, H], rotated already where positions are rotary; of the
            activations' type, or int8 at 8 bits.
        value: Values [B, S, K, H], of the same type.
        key_scale: Scales [B, S, K, 1] at 8 bits: a key is its integers times its scale.
        value_scale: Scales [B, S, K, 1] of the values at 8 bits.
    """

    key: Shaped[Array, "B S K H"]
    value: Shaped[Array, "B S K H"]
    key_scale: Float[Array, "B S K 1"] | None = None
    value_scale: Float[Array, "B S K 1"] | None = None

    @property
    def num_slots(self) -> int:
        """Number of slots of a row, S."""
        return self.key.shape[1]

    @property
    def num_rows(self) -> int:
        """Number of rows, B."""
        return self.key.shape[0]

    @property
    def kv_bits(self) -> KvBits:
        """Bits of the cache: 8, or 16 for the activations' type."""
        return 16 if self.key_scale is None else 8

    def at(self, kv_bits: KvBits) -> LayerCache:
        """Returns the cache at these bits: unchanged, or rounded from 16 to 8."""
        if kv_bits == self.kv_bits:
            return self
        key, key_scale = round_rows(self.key)
        value, value_scale = round_rows(self.value)
        return LayerCache(key, value, key_scale, value_scale)

    def rows(self, first: int, end: int) -> LayerCache:
        """Returns rows from `first` to `end`, exclusive."""
        return jax.tree.map(lambda block: block[first:end], self)

    def some_rows(self, first_row: Int[Array, ""] | int, count: int) -> LayerCache:
        """Returns `count` rows from a first one that is known only when the stage runs."""
        return jax.tree.map(
            lambda block: jax.lax.dynamic_slice_in_dim(block, first_row, count), self
        )

    def slots(self, count: int) -> LayerCache:
        """Returns the first slots of each row."""
        return jax.tree.map(lambda block: block[:, :count], self)

    def with_rows(
        self,
        new: LayerCache,
        first_row: Int[Array, ""],
        first_slot: Int[Array, ""] | int = 0,
    ) -> LayerCache:
        """Writes rows and slots from a first one on; `new` may have fewer of both."""
        zero = jnp.zeros_like(first_row)
        start = (first_row, zero + first_slot, zero, zero)
        return jax.tree.map(
            lambda block, rows: jax.lax.dynamic_update_slice(block, rows, start),
            self,
            new.at(self.kv_bits),
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
        return jax.tree.map(
            lambda block, tokens: write(block, tokens, first_slot_B),
            self,
            new.at(self.kv_bits),
        )


class PromptCache(NamedTuple):
    """One layer's cache of some prompts: the caches of their groups.

    Attributes:
        groups: Cache of one group that has the rows, or of several that they fill, in
            order.
        first_row: Index of the first row in its group, if there is one group.
        first_slot: Slot of the first new token, the same in all rows.
        num_slots: Number of slots, from the first on, that tokens may attend to.
    """

    groups: tuple[LayerCache, ...]
    first_row: Int[Array, ""]
    first_slot: Int[Array, ""] | int
    num_slots: int

    @property
    def zero(self) -> Int[Array, ""]:
        """A zero that is not a constant: added to a loop's length, it keeps XLA's loop."""
        return jnp.minimum(self.first_row, 0)

    @property
    def kv_bits(self) -> KvBits:
        """Bits of the groups' caches."""
        return self.groups[0].kv_bits

    def with_tokens(self, new: LayerCache) -> PromptCache:
        """Writes the new tokens of all rows."""
        per_group = new.key.shape[0] // len(self.groups)
        return self._replace(
            groups=tuple(
                cache.with_rows(
                    new.rows(index * per_group, (index + 1) * per_group),
                    self.first_row,
                    self.first_slot,
                )
                for index, cache in enumerate(self.groups)
            )
        )

    def some_rows(self, first: Int[Array, ""] | int, count: int) -> LayerCache:
        """Returns what `count` prompts of one group, from a first one, may attend to."""
        if len(self.groups) == 1:
            rows = self.groups[0].some_rows(self.first_row + first, count)
            return rows.slots(self.num_slots)
        per_group = self.groups[0].num_rows

        def of(cache: LayerCache) -> LayerCache:
            return cache.some_rows(first % per_group, count).slots(self.num_slots)

        return jax.lax.switch(
            first // per_group, [partial(of, cache) for cache in self.groups]
        )


def make_cache(
    make: Callable[[tuple[int, ...], Any], Any],
    architecture: Architecture,
    *,
    num_rows: int,
    num_slots: int,
    dtype: jnp.dtype,
    kv_bits: KvBits,
) -> LayerCache:
    """Returns one layer's cache of arrays that `make` returns for a shape and a type."""
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
