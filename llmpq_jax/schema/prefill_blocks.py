"""Blocks in which a prompt is computed, so that its working memory is small and known.

Running and planning must agree on them, so they are defined only here.
"""

from __future__ import annotations

# Enough to keep a processor busy, few enough that a layer's intermediates are small.
BLOCK_TOKENS = 512
# Maximum bytes of one block of float32 attention scores, [heads, queries, cached tokens]:
# small enough for a processor's cache, large enough that a loop step costs little.
SCORE_BLOCK_BYTES = 8 << 20
_SCORE_BYTES = 4


def attention_block(
    num_rows: int, num_tokens: int, *, num_heads: int, num_slots: int
) -> tuple[int, int]:
    """Returns the rows and tokens of the queries of one attention block.

    They are several whole rows or a part of one row's tokens: as many as divide evenly
    and have scores of at most `SCORE_BLOCK_BYTES`, but at least one token.
    """
    query_bytes = num_heads * num_slots * _SCORE_BYTES
    max_queries = max(1, SCORE_BLOCK_BYTES // query_bytes)
    if num_tokens > max_queries:
        return 1, _largest_divisor(num_tokens, max_queries)
    return _largest_divisor(num_rows, max_queries // num_tokens), num_tokens


def token_block(num_tokens: int) -> int:
    """Returns the tokens of the blocks in which a prefill is multiplied by weights.

    It is the largest divisor of the prefill's tokens that is at most `BLOCK_TOKENS`.
    """
    return _largest_divisor(num_tokens, BLOCK_TOKENS)


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)
