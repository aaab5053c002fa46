"""Working memory of a layer's prefill, from the sizes of its blocks.

A prefill concatenates the tokens of all its rows and computes a layer on them in blocks
(`schema.buckets`). Hidden states that enter and leave are arguments and results of
the program and are not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import for_width
from llmpq_jax.schema.buckets import attention_block, num_prefill_chunks, token_block
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    Activations,
    KvBits,
    kv_token_bytes,
)

_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefillShape:
    """Size of one prefill call: rows of whole prompts, or of chunks of prompts.

    Attributes:
        slots: Cached tokens that a query may attend to: the prompt's own or, with
            chunks, the whole cache.
        groups: Number of caches that the rows fill.
    """

    rows: int
    tokens: int
    slots: int
    groups: int = 1
    is_chunk: bool = False


def prefill_shape(
    *, rows: int, tokens: int, slots: int, chunk_tokens: int, cache_rows: int
) -> PrefillShape:
    """Returns the size of the calls in which a micro-batch of prompts is prefilled.

    `cache_rows` are the rows of one cache, those of a decode micro-batch.
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
    """Returns the bytes of a layer's live buffers on a device, at their peak.

    The largest of projections, transpose, attention and MLP, and the angles of all tokens
    if positions are rotary: the table in docs/cost-model.md, "Working memory of a prefill".
    """
    a = for_width(architecture, tensor)
    size = ACTIVATION_BYTES[activations]
    heads, kv_heads = a.num_heads // tensor, a.num_kv_heads // tensor
    hidden, inner = a.hidden_size, a.intermediate_size // tensor
    query, memory = heads * a.head_dim, 2 * kv_heads * a.head_dim
    num_tokens = shape.rows * shape.tokens
    block = token_block(num_tokens)
    rows, tokens = attention_block(
        shape.rows // shape.groups,
        shape.tokens,
        num_heads=heads,
        num_slots=shape.slots,
    )
    scores = rows * tokens * shape.slots * heads * _FLOAT32_BYTES
    read = size * rows * shape.slots * memory
    kept = num_tokens * kv_token_bytes(kv_heads, a.head_dim, size, kv_bits=kv_bits)
    if kv_bits == 8 or (shape.is_chunk and rows * tokens == num_tokens):
        read = max(read, scores)
    mlp = 3 * inner + hidden if a.is_gated else 2 * inner + 3 * hidden
    queries = num_tokens * query
    live = (
        size * (queries + block * (3 * hidden + query + memory)) + kept,
        size * (2 * queries + 3 * block * hidden) + kept,
        size * queries + 2 * scores + read,
        size * (queries + block * mlp),
    )
    is_rotary = a.position == "rope"
    angles = 2 * _FLOAT32_BYTES * num_tokens * a.head_dim if is_rotary else 0
    return max(live) + angles
