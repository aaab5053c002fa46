"""A stage as a module: layers, and the embedding or head on the first or last stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    """Consecutive layers of a decoder, with the embedding and the head if they are here.

    Inputs are tokens on a stage with the embedding, otherwise hidden states as the stage
    before sends them (`activation_codec`). Outputs are hidden states after the last layer;
    `StageProgram` applies the head.
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
        """Joins the parts of a stage, with the type of its activations."""
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
        first_position: Int[Array, ""] | None = None,
        *,
        on_hidden: Callable[[Array], None] = lambda _: None,
    ) -> tuple[Array, tuple[GroupCache, ...]]:
        """Runs prompts, padded right, or a chunk, and stores their keys and values.

        Args:
            inputs: Tokens [B, T] or received hidden states [B, T, D].
            caches: Caches of the groups that the rows belong to, in order: one group
                that the rows are part of, or several that they fill.
            first_row: First of the rows in the group, if they are part of one.
            first_position: Position of a chunk's first token, the same in all rows,
                whose earlier chunks the caches hold; None for whole prompts.
            on_hidden: Called with the hidden states before the first layer and after
                each layer.

        Returns:
            Hidden states [B, T, D], before `to_wire`, and the caches with the prompts in
            them.
        """
        num_rows, num_tokens = inputs.shape[:2]
        if first_position is None:
            context = fresh_context(self.architecture, num_rows, num_tokens)
        else:
            position_BT = jnp.broadcast_to(
                first_position + jnp.arange(num_tokens), (num_rows, num_tokens)
            )
            num_slots = caches[0][0].num_slots if caches[0] else num_tokens
            context = cached_context(self.architecture, position_BT, num_slots)
        hidden = self._embed(inputs, context)
        on_hidden(hidden)
        first_slot = 0 if first_position is None else first_position
        by_layer: list[tuple[LayerCache, ...]] = []
        for layer, groups in zip(self.layers, zip(*caches, strict=True), strict=True):
            cache = PromptCache(groups, first_row, first_slot, len(context.slot_S))
            hidden, cache = layer.prefill(hidden, cache, context)
            on_hidden(hidden)
            by_layer.append(cache.groups)
        if not by_layer:
            return hidden, caches
        return hidden, tuple(zip(*by_layer, strict=True))

    def decode(
        self, inputs: Array, cache: GroupCache, position_B: Int[Array, " B"]
    ) -> tuple[Array, GroupCache]:
        """Runs one token of each row of a group against its cache.

        Inputs are tokens [B] or received hidden states [B, 1, D]. Returns hidden states
        [B, 1, D], and the cache with the tokens in it.
        """
        if self.embedding is not None:
            inputs = inputs[:, None]
        num_slots = cache[0].num_slots
        context = cached_context(self.architecture, position_B[:, None], num_slots)
        hidden = self._embed(inputs, context)
        updated = []
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            hidden, new_cache = layer(hidden, layer_cache, context)
            updated.append(new_cache)
        return hidden, tuple(updated)

    def to_wire(self, hidden: Array) -> Array:
        """Returns hidden states as they are sent to the next stage."""
        return pack_hidden(hidden) if self.wire_bits == 8 else hidden

    def _embed(self, inputs: Array, context: Context) -> Array:
        if self.embedding is None:
            return unpack_hidden(inputs, self.architecture.hidden_size, self.dtype)
        return self.embedding(inputs, context.position_BT)


def last_hidden(hidden_BTD: Array, length_B: Array) -> Array:
    """Returns each row's hidden state at its last token, [B, D].

    For a row whose length is not in [1, T] it returns another token's hidden state.
    """
    index = jnp.clip(length_B - 1, 0, hidden_BTD.shape[1] - 1)[:, None, None]
    return jnp.take_along_axis(hidden_BTD, index, axis=1)[:, 0]
