"""What a layer's prefill works in, moment by moment, by the blocks it works in.

A prefill lays all tokens of its rows end to end and takes them through a layer in blocks
(`schema.prefill_blocks`). The compiler lets a buffer go as soon as its last reader is done, so what
matters is which buffers lie beside each other at the fullest moment. Hidden states that
come in and go out are arguments and results and are not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.schema.buckets import num_prefill_chunks
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    Activations,
    KvBits,
    kv_token_bytes,
)
from llmpq_jax.schema.prefill_blocks import attention_block, token_block

_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillShape:
    """One call of a prefill.

    Attributes:
        rows: Prompts, or chunks of prompts.
        tokens: Of each that go through the stage at once.
        slots: Of the cache that they look at: their own, or with chunks all.
        groups: Caches that the rows fill.
        is_chunk: Whether the tokens are a part of their prompts.
    """

    rows: int
    tokens: int
    slots: int
    groups: int = 1
    is_chunk: bool = False


def prefill_shape(
    *, rows: int, tokens: int, slots: int, chunk_tokens: int, cache_rows: int
) -> PrefillShape:
    """Returns what goes through a stage at once of a micro-batch of prompts.

    Args:
        rows: Of the micro-batch.
        tokens: Of each prompt, padding included.
        slots: Of the cache.
        chunk_tokens: Of a prompt, computed at a time.
        cache_rows: Of one cache: a decode micro-batch's. It divides the rows, or they
            are a part of it.
    """
    num_chunks = num_prefill_chunks(tokens, chunk_tokens)
    return PrefillShape(
        rows=rows,
        tokens=tokens // num_chunks,
        slots=tokens if num_chunks == 1 else max(tokens, slots),
        groups=max(1, rows // cache_rows),
        is_chunk=num_chunks > 1,
    )


def prefill_working_bytes(
    architecture: Architecture,
    shape: PrefillShape,
    *,
    activations: Activations,
    kv_bits: KvBits,
    tensor: int = 1,
) -> int:
    """Returns the bytes beside each other on a device at a layer's fullest moment.

    Of n tokens in blocks of B, with D, Q, M and F numbers per token of hidden states,
    queries, keys and values, and the MLP's inner width on this device, the largest of

        projecting   n Q + kept + B (3 D + Q + M)
        turning      2 n Q + kept + 3 B D
        attending    n Q + 2 scores + read
        finishing    n Q + B F'              F' = 3 F + D if gated, else 2 F + 3 D

    and the angles of all tokens where positions rotate. `kept` are keys and values until
    the cache holds them; `scores` are one block's; `read` is a copy of the keys and
    values that the block reads, or, with a cache of 8 bits and of chunks that attend in
    a single block, a third copy of the scores where that is larger.
    """
    a = architecture
    size = ACTIVATION_BYTES[activations]
    heads, kv_heads = a.num_heads // tensor, a.num_kv_heads // tensor
    hidden, inner = a.hidden_size, a.intermediate_size // tensor
    query, memory = heads * a.head_dim, 2 * kv_heads * a.head_dim
    num = shape.rows * shape.tokens
    block = token_block(num)
    rows, tokens = attention_block(
        shape.rows // shape.groups,
        shape.tokens,
        num_heads=heads,
        num_slots=shape.slots,
    )
    scores = rows * tokens * shape.slots * heads * _FLOAT32_BYTES
    read = size * rows * shape.slots * memory
    kept = num * kv_token_bytes(kv_heads, a.head_dim, size, kv_bits=kv_bits)
    if kv_bits == 8 or (shape.is_chunk and rows * tokens == num):
        read = max(read, scores)
    inside = 3 * inner + hidden if a.is_gated else 2 * inner + 3 * hidden
    moments = (
        size * (num * query + block * (3 * hidden + query + memory)) + kept,
        size * (2 * num * query + 3 * block * hidden) + kept,
        size * num * query + 2 * scores + read,
        size * (num * query + block * inside),
    )
    is_rotated = a.position == "rope"
    angles = 2 * _FLOAT32_BYTES * num * a.head_dim if is_rotated else 0
    return max(moments) + angles
