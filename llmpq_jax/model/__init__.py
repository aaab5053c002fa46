"""A decoder, layer by layer, as Flax NNX modules over weights that are already loaded."""

from llmpq_jax.model.cache import LayerCache, PromptCache, make_cache
from llmpq_jax.model.decoder import DecoderLayer, Embedding, Head
from llmpq_jax.model.positions import Context, cached_context, fresh_context

__all__ = [
    "Context",
    "DecoderLayer",
    "Embedding",
    "Head",
    "LayerCache",
    "PromptCache",
    "cached_context",
    "fresh_context",
    "make_cache",
]
