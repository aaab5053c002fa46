"""Blocks of a prompt's work: what lies in memory at a time is small and known.

Running and planning must agree on them, so they are defined once, here.
"""

from __future__ import annotations

# Enough to keep a processor busy, few enough that what a layer makes of them is small.
BLOCK_TOKENS = 512
# Of attention's scores at a time, in one head-by-query-by-slot array of float32: small
# enough for a processor's cache, large enough that a loop's step costs nothing beside it.
SCORE_BLOCK_BYTES = 8 << 20
_SCORE_BYTES = 4


def attention_block(
    num_rows: int, num_tokens: int, *, num_heads: int, num_slots: int
) -> tuple[int, int]:
    """Returns the rows and tokens whose queries attend at a time.

    Several whole rows, or a part of one row's tokens: the most that divide evenly and
    whose scores take at most `SCORE_BLOCK_BYTES`; one token where even that is too much.
    """
    query_bytes = num_heads * num_slots * _SCORE_BYTES
    most = max(1, SCORE_BLOCK_BYTES // query_bytes)
    if num_tokens > most:
        return 1, _largest_divisor(num_tokens, most)
    return _largest_divisor(num_rows, most // num_tokens), num_tokens


def token_block(num_tokens: int) -> int:
    """Returns how many tokens of a prefill's go through a layer's matrices at a time.

    The most that divide evenly, at most `BLOCK_TOKENS`.
    """
    return _largest_divisor(num_tokens, BLOCK_TOKENS)


def _largest_divisor(number: int, most: int) -> int:
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)
