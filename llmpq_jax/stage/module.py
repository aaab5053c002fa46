"""A stage as a module: perhaps the embedding, some layers, perhaps the head."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.model import (
    Context,
    DecoderLayer,
    Embedding,
    Head,
    LayerCache,
    PromptCache,
    cached_context,
    fresh_context,
)
from llmpq_jax.schema.precision import WireBits
from llmpq_jax.stage.activation_codec import pack_hidden, unpack_hidden

GroupCache = tuple[LayerCache, ...]


class StageModule(nnx.Module):
    """Consecutive layers with what stands before the first and after the last.

    Inputs are tokens where the stage has the embedding, hidden states elsewhere;
    outputs are logits where it has the head, hidden states elsewhere. Hidden states
    arrive and leave as `wire` has them.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        embedding: Embedding | None,
        layers: Sequence[DecoderLayer],
        head: Head | None,
        dtype: jnp.dtype,
        wire_bits: WireBits = 16,
    ) -> None:
        """Joins the parts; `dtype` is that of the activations, `wire_bits` of what leaves."""
        self.architecture = architecture
        self.dtype = dtype
        self.wire_bits = wire_bits
        self.embedding = embedding
        self.layers = nnx.List(layers)
        self.head = head

    def prefill(
        self,
        inputs: Array,
        caches: tuple[GroupCache, ...],
        first_row: Int[Array, ""],
    ) -> tuple[Array, tuple[GroupCache, ...]]:
        """Runs whole prompts, padded right, and stores their keys and values.

        Args:
            inputs: [B, T] tokens or [B, T, D] hidden states.
            caches: Of the groups that the rows belong to, in order: one group that
                the rows are part of, or several that they fill.
            first_row: Where in the group the rows begin, if they are part of one.

        Returns:
            Hidden states [B, T, D], not yet `handed_on`, and the caches with the rows
            in them.
        """
        context = fresh_context(self.architecture, *inputs.shape[:2])
        hidden = self._embed(inputs, context)
        return self._through_layers(hidden, caches, first_row, 0, context)

    def extend(
        self,
        inputs: Array,
        caches: tuple[GroupCache, ...],
        first_row: Int[Array, ""],
        first_position: Int[Array, ""],
    ) -> tuple[Array, tuple[GroupCache, ...]]:
        """Runs one chunk of long prompts, whose earlier chunks the caches hold.

        Args:
            inputs: [B, T] tokens or [B, T, D] hidden states of the chunk.
            caches: As in `prefill`.
            first_row: As in `prefill`.
            first_position: Where in the prompts the chunk begins, for all rows alike.

        Returns:
            Hidden states [B, T, D], and the caches with the chunk in them.
        """
        num_rows, num_tokens = inputs.shape[:2]
        position_BT = jnp.broadcast_to(
            first_position + jnp.arange(num_tokens), (num_rows, num_tokens)
        )
        num_slots = caches[0][0].num_slots if caches[0] else num_tokens
        context = cached_context(self.architecture, position_BT, num_slots)
        hidden = self._embed(inputs, context)
        return self._through_layers(hidden, caches, first_row, first_position, context)

    def decode(
        self, inputs: Array, cache: GroupCache, position_B: Int[Array, " B"]
    ) -> tuple[Array, GroupCache]:
        """Runs one token of each row of a group against its cache.

        Args:
            inputs: [B] tokens or [B, 1, D] hidden states.
            cache: Of the group.
            position_B: Of the tokens.

        Returns:
            Hidden states [B, 1, D], and the cache with the tokens in it.
        """
        if self.embedding is not None:
            inputs = inputs[:, None]
        num_slots = cache[0].num_slots
        context = cached_context(self.architecture, position_B[:, None], num_slots)
        hidden = self._embed(inputs, context)
        grown = []
        for layer, memory in zip(self.layers, cache, strict=True):
            hidden, new_memory = layer(hidden, memory, context)
            grown.append(new_memory)
        return hidden, tuple(grown)

    def handed_on(self, hidden: Array) -> Array:
        """Returns hidden states as the next stage gets them."""
        return pack_hidden(hidden) if self.wire_bits == 8 else hidden

    def _through_layers(
        self,
        hidden: Array,
        caches: tuple[GroupCache, ...],
        first_row: Int[Array, ""],
        first_slot: Int[Array, ""] | int,
        context: Context,
    ) -> tuple[Array, tuple[GroupCache, ...]]:
        """Runs prompts, or a chunk of them, through the layers; see `PromptCache`."""
        by_layer: list[tuple[LayerCache, ...]] = []
        for layer, groups in zip(self.layers, zip(*caches, strict=True), strict=True):
            memory = PromptCache(groups, first_row, first_slot, len(context.slot_S))
            hidden, memory = layer.prefill(hidden, memory, context)
            by_layer.append(memory.groups)
        if not by_layer:
            return hidden, caches
        return hidden, tuple(zip(*by_layer, strict=True))

    def _embed(self, inputs: Array, context: Context) -> Array:
        if self.embedding is None:
            return unpack_hidden(inputs, self.architecture.hidden_size, self.dtype)
        return self.embedding(inputs, context.position_BT)


def last_hidden(hidden_BTD: Array, length_B: Array) -> Array:
    """Picks each row's hidden state at its last token: [B, D].

    A row whose last token lies outside [1, T] gives some other one.
    """
    index = jnp.clip(length_B - 1, 0, hidden_BTD.shape[1] - 1)[:, None, None]
    return jnp.take_along_axis(hidden_BTD, index, axis=1)[:, 0]
