"""Scaled dot-product attention with shared key-value heads."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmpq_jax.kernels import attend_to_cache, serves_attention
from llmpq_jax.model.cache import LayerCache, PromptCache
from llmpq_jax.model.positions import Context
from llmpq_jax.schema.buckets import attention_block

# Finite, so that a row without a visible key gives numbers and not NaN; such rows are
# padding, and are never read.
_MASKED = -1e30


def attend(
    query_BTNH: Float[Array, "B T N H"],
    memory: LayerCache,
    context: Context,
    *,
    window: int | None,
    slopes_N: Float[Array, " N"] | None,
) -> Float[Array, "B T N H"]:
    """Mixes the values by softmax(query · key / √H + bias) over what is visible.

    Query head n reads key-value head n // (N / K). Scores and weights are float32; a cache
    of 8 bits is read as it is. The bias is ALiBi's: −slope · distance, or none.
    """
    batch, length, num_heads, head_dim = query_BTNH.shape
    num_kv_heads = memory.key.shape[2]
    shared = num_heads // num_kv_heads
    grouped = query_BTNH.reshape(batch, length, num_kv_heads, shared, head_dim)
    # As one matrix for each key-value head: XLA would transpose the much larger scores.
    query_BKQH = jnp.moveaxis(grouped, 1, 3).reshape(
        batch, num_kv_heads, shared * length, head_dim
    )
    scores = jax.lax.dot_general(
        query_BKQH,
        memory.key.astype(query_BTNH.dtype),
        (((3,), (3,)), ((0, 1), (0, 2))),
        preferred_element_type=jnp.float32,
    ) / math.sqrt(head_dim)
    if memory.key_scale is not None:
        scores = scores * _by_slot(memory.key_scale)
    # Of the same shape as the scores, so that they are changed in place.
    position_BQ = jnp.tile(context.position_BT, (1, shared))
    here = context._replace(position_BT=position_BQ)
    if slopes_N is not None:
        slopes_KQ = jnp.repeat(slopes_N.reshape(num_kv_heads, shared), length, axis=1)
        ahead_BQS = context.slot_S[None, None, :] - position_BQ[:, :, None]
        bias = slopes_KQ[None, :, :, None] * ahead_BQS[:, None].astype(jnp.float32)
        scores = scores + bias
    visible_BQS = here.visible_BTS(window)
    scores = jnp.where(visible_BQS[:, None], scores, _MASKED)
    # A softmax whose sum divides the mixed values: the scores are written once less.
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    total_BKQ1 = weights.sum(axis=-1, keepdims=True)
    if memory.value_scale is not None:
        weights = weights * _by_slot(memory.value_scale)
    mixed_BKQH = jax.lax.dot_general(
        weights.astype(query_BTNH.dtype),
        memory.value.astype(query_BTNH.dtype),
        (((3,), (1,)), ((0, 1), (0, 2))),
        preferred_element_type=jnp.float32,
    )
    mixed_BKQH = mixed_BKQH / total_BKQ1
    mixed = mixed_BKQH.reshape(batch, num_kv_heads, shared, length, head_dim)
    mixed = jnp.moveaxis(mixed, 3, 1).reshape(query_BTNH.shape)
    return mixed.astype(query_BTNH.dtype)


def _by_slot(scale_BSK1: Float[Array, "B S K 1"]) -> Float[Array, "B K 1 S"]:
    """Transposes a cache's scales to the axes of scores.

    Scores and weights are multiplied instead of keys and values: no dequantised copy of
    a cache is made.
    """
    return scale_BSK1.transpose(0, 2, 3, 1)


def attend_and_store(
    query_BTNH: Float[Array, "B T N H"],
    new: LayerCache,
    cache: LayerCache,
    context: Context,
    *,
    window: int | None,
    slopes_N: Float[Array, " N"] | None,
) -> tuple[Float[Array, "B T N H"], LayerCache]:
    """Writes each sequence's new token to its cache and attends to the cache.

    On a CPU the native kernel does both: it reads no slot beyond a sequence's own
    length, and updates the cache in place.
    """
    position_B = context.position_BT[:, 0]

    def in_xla(
        query_BTNH: Array, new: LayerCache, cache: LayerCache
    ) -> tuple[Array, LayerCache]:
        memory = cache.with_tokens(new, position_B)
        mixed = attend(query_BTNH, memory, context, window=window, slopes_N=slopes_N)
        return mixed, memory

    def in_native_code(
        query_BTNH: Array, new: LayerCache, cache: LayerCache
    ) -> tuple[Array, LayerCache]:
        mixed, arrays = attend_to_cache(
            query_BTNH[:, 0],
            new.key[:, 0],
            new.value[:, 0],
            (cache.key, cache.value, cache.key_scale, cache.value_scale),
            position_B,
            window=window,
            slopes_N=slopes_N,
        )
        return mixed[:, None], LayerCache(*arrays)

    if query_BTNH.shape[1] == 1 and serves_attention(query_BTNH.dtype):
        return jax.lax.platform_dependent(
            query_BTNH, new, cache, cpu=in_native_code, default=in_xla
        )
    return in_xla(query_BTNH, new, cache)


def store_and_attend(
    query_BTNH: Float[Array, "B T N H"],
    new: LayerCache,
    cache: PromptCache,
    context: Context,
    *,
    window: int | None,
    slopes_N: Float[Array, " N"] | None,
) -> tuple[Float[Array, "B T N H"], PromptCache]:
    """Writes the new tokens of prompts to their cache and attends to the cache.

    Queries attend block by block, see `attention_block`. Keys and values are read back
    from the cache, so that each layer's are written before the next layer computes its
    own: XLA would postpone writing them and keep them all.
    """
    memory = cache.with_tokens(new)
    # Otherwise XLA would read what was written instead of the cache.
    stored = memory._replace(groups=jax.lax.optimization_barrier(memory.groups))
    num_rows, num_tokens, num_heads, _ = query_BTNH.shape
    rows, tokens = attention_block(
        num_rows // len(cache.groups),
        num_tokens,
        num_heads=num_heads,
        num_slots=cache.num_slots,
    )
    per_row = num_tokens // tokens
    num_blocks = num_rows * num_tokens // (rows * tokens)
    position = context.position_BT.reshape(num_blocks, rows, tokens)

    def step(number: Array, mixed: Array) -> Array:
        # Mixed values overwrite their query.
        query = jax.lax.dynamic_index_in_dim(mixed, number, keepdims=False)
        here = jax.lax.dynamic_index_in_dim(position, number, keepdims=False)
        block = attend(
            query,
            stored.some_rows(number // per_row * rows, rows),
            context._replace(position_BT=here),
            window=window,
            slopes_N=slopes_N,
        )
        return jax.lax.dynamic_update_index_in_dim(mixed, block, number, 0)

    blocks = query_BTNH.reshape(num_blocks, rows, tokens, *query_BTNH.shape[2:])
    mixed = jax.lax.fori_loop(0, num_blocks + cache.zero, step, blocks)
    return mixed.reshape(query_BTNH.shape), memory
