"""Packs hidden states between stages as int8, where the plan says so.

They are sent as one array: each token's values, then its float32 scale as four more bytes.
Hidden states that are not packed have another type, so a stage knows from an array's type
how to read it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from llmpq_jax.quant import round_rows
from llmpq_jax.schema.precision import SCALE_BYTES


def pack_hidden(hidden: Float[Array, "*tokens D"]) -> Int8[Array, "*tokens D_and_4"]:
    """Rounds each token's hidden state to int8, its largest magnitude to ±127."""
    values, scale = round_rows(hidden)
    in_bytes = jax.lax.bitcast_convert_type(scale[..., 0], jnp.int8)
    return jnp.concatenate([values, in_bytes], axis=-1)


def unpack_hidden(
    received: Array, width: int, dtype: jnp.dtype
) -> Float[Array, "*tokens D"]:
    """Returns received hidden states, [.., width], unpacked if they are packed int8."""
    if received.dtype != jnp.int8:
        return received
    scale = jax.lax.bitcast_convert_type(received[..., width:], jnp.float32)
    assert received.shape[-1] == width + SCALE_BYTES
    values = received[..., :width].astype(jnp.float32)
    return (values * scale[..., None]).astype(dtype)
