"""Scaled dot-product attention with shared key-value heads."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from llmpq_jax.model.cache import LayerCache

# Finite, so that a row without a visible key gives numbers and not NaN; such rows are
# padding, and nobody reads them.
_MASKED = -1e30


def attend(
    query_BTNH: Float[Array, "B T N H"],
    memory: LayerCache,
    visible_BTS: Bool[Array, "B T S"],
    bias_BNTS: Float[Array, "B N T S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Mixes the values by softmax(query · key / √H + bias) over what is visible.

    Query head n reads key-value head n // (N / K). Scores and weights are float32.
    """
    batch, length, num_heads, head_dim = query_BTNH.shape
    num_kv_heads = memory.key.shape[2]
    shared = num_heads // num_kv_heads
    grouped = query_BTNH.reshape(batch, length, num_kv_heads, shared, head_dim)
    scores = jnp.einsum(
        "BTKJH,BSKH->BKJTS", grouped, memory.key, preferred_element_type=jnp.float32
    ) / math.sqrt(head_dim)
    if bias_BNTS is not None:
        scores = scores + bias_BNTS.reshape(scores.shape)
    scores = jnp.where(visible_BTS[:, None, None, :, :], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(query_BTNH.dtype)
    mixed = jnp.einsum(
        "BKJTS,BSKH->BTKJH", weights, memory.value, preferred_element_type=jnp.float32
    )
    return mixed.reshape(query_BTNH.shape).astype(query_BTNH.dtype)
