"""Lengths of compiled programs, and the blocks in which a prompt is computed.

Lengths are rounded up to a few buckets, so that few programs are compiled. Blocks keep a
prefill's working memory small and known. Running and planning must agree on both.
"""

from __future__ import annotations

from functools import lru_cache


def bucket_length(length: int) -> int:
    """Rounds a number of tokens up to a bucket.

    Buckets are 16, 32, 48, 64, 96, 128, then multiples of 64 up to 1024 and of 256
    beyond. From 17 tokens on less than half of a bucket is padding, above 1024 less than
    a quarter.
    """
    if length < 1:
        msg = f"a length of {length} tokens has no bucket: expected at least 1"
        raise ValueError(msg)
    for short in (16, 32, 48, 64, 96, 128):
        if length <= short:
            return short
    step = 64 if length <= 1024 else 256
    return -(-length // step) * step


# Maximum decode steps per call of a stage that holds the whole model. The host sees tokens
# only between calls, so a finished sequence wastes up to this many steps less one.
MAX_STEPS_PER_CALL = 8
# The same where requests come at any time, which wait for a call to end; `serve --max-steps`.
ONLINE_STEPS_PER_CALL = 4

# Tokens of a prompt that one call computes: enough to keep a processor busy, few enough
# that attention scores stay small and other micro-batches run in between.
PREFILL_CHUNK_TOKENS = 512
_CHUNK_STEP = 16


def num_prefill_chunks(num_tokens: int, chunk_tokens: int) -> int:
    """Returns the number of equal chunks that a prompt is computed in.

    It is the smallest number of chunks of at most `chunk_tokens` and a multiple of 16
    tokens.

    Args:
        num_tokens: Padded length of the prompt, a bucket.
        chunk_tokens: Maximum tokens of a chunk, at least 16.
    """
    min_chunks = -(-num_tokens // chunk_tokens)
    if min_chunks == 1:
        return 1
    if num_tokens % _CHUNK_STEP or chunk_tokens < _CHUNK_STEP:
        msg = f"{num_tokens} tokens in chunks of {chunk_tokens}: expected a bucket's length, and chunks of at least {_CHUNK_STEP}"
        raise ValueError(msg)
    max_chunks = num_tokens // _CHUNK_STEP
    return next(
        count for count in range(min_chunks, max_chunks + 1) if max_chunks % count == 0
    )


# Chunks of prompts that come at any time: few sizes, because each takes seconds to compile.
_ONLINE_CHUNKS = (16, 32, 128, 512)
# What a chunk costs besides its tokens, as a number of tokens: weights are read once more,
# and decode steps of other sequences come in between.
_CHUNK_COST_TOKENS = 32


def online_chunk_sizes(chunk_tokens: int, num_slots: int) -> tuple[int, ...]:
    """Returns the lengths of chunks that prompts are cut into if they come at any time.

    Args:
        chunk_tokens: Maximum tokens of a chunk, at least 16.
        num_slots: Slots of a row's cache, at least 16.
    """
    limit = min(chunk_tokens, num_slots)
    sizes = tuple(size for size in _ONLINE_CHUNKS if size <= limit)
    return sizes[1:] or sizes


def cut_prompt(
    start: int, end: int, *, sizes: tuple[int, ...], num_slots: int
) -> list[tuple[int, int]]:
    """Cuts the tokens of a prompt from one position to another into chunks.

    The last one may be padded. Where the padding would not fit into the cache it starts
    earlier, so that some tokens are computed once more.

    Args:
        start: Position of the first token to compute.
        end: Position after the last one, at most `num_slots`.
        sizes: Lengths of chunks, in ascending order (`online_chunk_sizes`).
        num_slots: Slots of a row's cache.

    Returns:
        First position and length of each chunk, in order.
    """
    chunks: list[tuple[int, int]] = []
    while start < end:
        size = sizes[-1]
        if end - start < size:
            size = max(_cheapest_cut(end - start, sizes))
        first = min(start, num_slots - size)
        chunks.append((first, size))
        start = first + size
    return chunks


@lru_cache(maxsize=4096)
def _cheapest_cut(length: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the chunks whose tokens, padding included, and number cost least."""
    cuts = [
        (size, *(_cheapest_cut(length - size, sizes) if length > size else ()))
        for size in sizes
        if size <= length or size == min(each for each in sizes if each >= length)
    ]
    return min(cuts, key=lambda cut: sum(cut) + _CHUNK_COST_TOKENS * len(cut))


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
