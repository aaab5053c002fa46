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

    Query head n reads key-value head n // (N / K). Scores and weights are float32. The
    bias is ALiBi's: −slope · distance, or none.
    """
    batch, length, num_heads, head_dim = query_BTNH.shape
    num_kv_heads = memory.key.shape[2]
    shared = num_heads // num_kv_heads
    grouped = query_BTNH.reshape(batch, length, num_kv_heads, shared, head_dim)
    scores = jnp.einsum(
        "BTKJH,BSKH->BKJTS", grouped, memory.key, preferred_element_type=jnp.float32
    ) / math.sqrt(head_dim)
    if slopes_N is not None:
        behind = context.slot_S[None, None, :] - context.position_BT[:, :, None]
        bias = slopes_N[None, :, None, None] * behind[:, None].astype(jnp.float32)
        scores = scores + bias.reshape(scores.shape)
    visible = context.visible_BTS(window)
    scores = jnp.where(visible[:, None, None, :, :], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(query_BTNH.dtype)
    mixed = jnp.einsum(
        "BKJTS,BSKH->BTKJH", weights, memory.value, preferred_element_type=jnp.float32
    )
    return mixed.reshape(query_BTNH.shape).astype(query_BTNH.dtype)


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
        mixed, keys, values = attend_to_cache(
            query_BTNH[:, 0],
            new.key[:, 0],
            new.value[:, 0],
            cache.key,
            cache.value,
            position_B,
            window=window,
            slopes_N=slopes_N,
        )
        return mixed[:, None], LayerCache(key=keys, value=values)

    if query_BTNH.shape[1] == 1 and serves_attention(cache.key.dtype):
        return jax.lax.platform_dependent(
            query_BTNH, new, cache, cpu=in_native_code, default=in_xla
        )
    return in_xla(query_BTNH, new, cache)
