"""Scaled dot-product attention with shared key-value heads."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llmpq_jax.kernels import attend_to_cache, serves_attention
from llmpq_jax.model.cache import LayerCache
from llmpq_jax.model.positions import Context

# Finite, so that a row without a visible key gives numbers and not NaN; such rows are
# padding, and nobody reads them.
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
    scores = jnp.einsum(
        "BTKJH,BSKH->BKJTS",
        grouped,
        memory.key.astype(query_BTNH.dtype),
        preferred_element_type=jnp.float32,
    ) / math.sqrt(head_dim)
    if memory.key_scale is not None:
        scores = scores * _by_slot(memory.key_scale)
    if slopes_N is not None:
        behind = context.slot_S[None, None, :] - context.position_BT[:, :, None]
        bias = slopes_N[None, :, None, None] * behind[:, None].astype(jnp.float32)
        scores = scores + bias.reshape(scores.shape)
    visible = context.visible_BTS(window)
    scores = jnp.where(visible[:, None, None, :, :], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1)
    if memory.value_scale is not None:
        weights = weights * _by_slot(memory.value_scale)
    mixed = jnp.einsum(
        "BKJTS,BSKH->BTKJH",
        weights.astype(query_BTNH.dtype),
        memory.value.astype(query_BTNH.dtype),
        preferred_element_type=jnp.float32,
    )
    return mixed.reshape(query_BTNH.shape).astype(query_BTNH.dtype)


def _by_slot(scale_BSK1: Float[Array, "B S K 1"]) -> Float[Array, "B K 1 1 S"]:
    """Turns a cache's scales to where scores and weights have their slots.

    Scores and weights are multiplied instead of keys and values: no dequantised copy of
    a cache is made.
    """
    return jnp.moveaxis(scale_BSK1, 1, -1)[:, :, None]


def attend_and_store(
    query_BTNH: Float[Array, "B T N H"],
    new: LayerCache,
    cache: LayerCache,
    context: Context,
    *,
    window: int | None,
    slopes_N: Float[Array, " N"] | None,
) -> tuple[Float[Array, "B T N H"], LayerCache]:
    """Puts each row's new token into its cache and attends to what is there then.

    On a CPU the native kernel does both: it reads no slot beyond a row's own length,
    and updates the cache in place.
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
        mixed, keys, values, key_scale, value_scale = attend_to_cache(
            query_BTNH[:, 0],
            new.key[:, 0],
            new.value[:, 0],
            cache.key,
            cache.value,
            position_B,
            key_scales_BSK1=cache.key_scale,
            value_scales_BSK1=cache.value_scale,
            window=window,
            slopes_N=slopes_N,
        )
        return mixed[:, None], LayerCache(keys, values, key_scale, value_scale)

    if query_BTNH.shape[1] == 1 and serves_attention(query_BTNH.dtype):
        return jax.lax.platform_dependent(
            query_BTNH, new, cache, cpu=in_native_code, default=in_xla
        )
    return in_xla(query_BTNH, new, cache)
