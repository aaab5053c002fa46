"""Attention of one new token per sequence over a cache, by the native CPU kernel."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from llmpq_jax.kernels.native import native_path

_SLOTS_AT_ONCE = 32  # kSlotsAtOnce of native/kernels.h
_HEADS_PADDED_TO = 16

# Keys, values, and the scales of both where they are int8.
CacheArrays: TypeAlias = tuple[
    Shaped[Array, "B S K H"],
    Shaped[Array, "B S K H"],
    Float[Array, "B S K 1"] | None,
    Float[Array, "B S K 1"] | None,
]


def serves_attention(dtype: jnp.dtype) -> bool:
    """Returns whether `attend_to_cache` serves queries of this type on a CPU."""
    is_served = dtype in (jnp.float32, jnp.bfloat16)
    return is_served and native_path() is not None


def attend_to_cache(
    query_BNH: Float[Array, "B N H"],
    key_BKH: Float[Array, "B K H"],
    value_BKH: Float[Array, "B K H"],
    cache: CacheArrays,
    position_B: Int[Array, " B"],
    *,
    window: int | None = None,
    slopes_N: Float[Array, " N"] | None = None,
) -> tuple[Float[Array, "B N H"], CacheArrays]:
    """Stores each sequence's new key and value and attends to all up to its position.

    Args:
        query_BNH: Query heads, rotated; head n reads key head n // (N / K).
        key_BKH: Key of the new token, rotated.
        value_BKH: Value of the new token.
        cache: Cached keys and values, of the query's type or int8, and the scales of
            both, None unless int8; updated in place where XLA can.
        position_B: Position of the new token in each sequence.
        window: Number of tokens that are attended to, the new one included; all if
            None.
        slopes_N: Slope of ALiBi for each head; None without ALiBi.

    Returns:
        The weighted sums of values, and the cache with the new tokens in it.
    """
    native_path()
    num_rows, num_heads, head_dim = query_BNH.shape
    num_kv_heads = key_BKH.shape[1]
    shared = num_heads // num_kv_heads
    padded = -(-shared // _HEADS_PADDED_TO) * _HEADS_PADDED_TO
    scratch = 2 * shared * head_dim + (_SLOTS_AT_ONCE + 3) * padded
    nothing = jnp.zeros((0,), jnp.float32)
    updated = [nothing if array is None else array for array in cache]
    call = jax.ffi.ffi_call(
        "llmpq_jax_attend",
        [
            jax.ShapeDtypeStruct(query_BNH.shape, query_BNH.dtype),
            *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in updated),
            jax.ShapeDtypeStruct((num_rows * num_kv_heads * scratch,), jnp.float32),
        ],
        input_output_aliases={3: 1, 4: 2, 5: 3, 6: 4},
    )
    mixed, keys, values, key_scales, value_scales, _ = call(
        *(query_BNH, key_BKH, value_BKH, *updated),
        *(position_B.astype(jnp.int32), nothing if slopes_N is None else slopes_N),
        window=0 if window is None else window,
    )
    if cache[2] is None:
        return mixed, (keys, values, None, None)
    return mixed, (keys, values, key_scales, value_scales)
