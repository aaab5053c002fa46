"""Hidden states on their way to the next stage, in int8 where the plan says so.

They travel as one array: of each token its values, then its float32 scale as four more
bytes. An array of another type is hidden states as they are, so a stage knows from what
arrives how to read it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from llmpq_jax.quant import round_rows
from llmpq_jax.schema.precision import SCALE_BYTES


def pack_hidden(hidden: Float[Array, "*tokens D"]) -> Int8[Array, "*tokens D_and_4"]:
    """Rounds each token's hidden state to int8, the largest magnitude to 127."""
    values, scale = round_rows(hidden)
    in_bytes = jax.lax.bitcast_convert_type(scale[..., 0], jnp.int8)
    return jnp.concatenate([values, in_bytes], axis=-1)


def unpack_hidden(
    arrived: Array, width: int, dtype: jnp.dtype
) -> Float[Array, "*tokens D"]:
    """Returns the hidden states of what arrived, packed or not.

    Args:
        arrived: [.., width] of any float type, or [.., width + 4] int8.
        width: Of the model's hidden states.
        dtype: Of the stage's activations.
    """
    if arrived.dtype != jnp.int8:
        return arrived
    scale = jax.lax.bitcast_convert_type(arrived[..., width:], jnp.float32)
    assert arrived.shape[-1] == width + SCALE_BYTES
    return (arrived[..., :width].astype(jnp.float32) * scale[..., None]).astype(dtype)
