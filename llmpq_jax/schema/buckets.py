"""Shape buckets: lengths are rounded up so that few executables are compiled."""

from __future__ import annotations


def bucket_length(length: int) -> int:
    """Rounds a number of tokens up to a bucket.

    Buckets are 16, 32, 48, 64, 96, 128, then every multiple of 64 up to 1024 and of
    256 beyond: padding stays below a half for short and below a quarter for long.
    """
    if length < 1:
        msg = f"a length of {length} tokens has no bucket: expected at least 1"
        raise ValueError(msg)
    for short in (16, 32, 48, 64, 96, 128):
        if length <= short:
            return short
    step = 64 if length <= 1024 else 256
    return -(-length // step) * step


# Decode steps that one call of a stage takes at most which is the whole model. Between
# calls the host sees the tokens, so rows that have ended take part in as many steps in
# vain, less one.
MAX_STEPS_PER_CALL = 8

# Of a prompt, computed at a time: enough to keep a processor busy, few enough that
# attention's scores stay small and other micro-batches get their turn in between.
PREFILL_CHUNK_TOKENS = 512
_CHUNK_STEP = 16


def num_prefill_chunks(num_tokens: int, chunk_tokens: int) -> int:
    """Returns into how many equal chunks prompts of a bucket's length are cut.

    The fewest that hold at most `chunk_tokens` each and a multiple of 16 tokens.

    Args:
        num_tokens: A bucket, see `bucket_length`.
        chunk_tokens: At most so many at a time, 16 or more.
    """
    fewest = -(-num_tokens // chunk_tokens)
    if fewest == 1:
        return 1
    if num_tokens % _CHUNK_STEP or chunk_tokens < _CHUNK_STEP:
        msg = f"{num_tokens} tokens in chunks of {chunk_tokens}: expected a bucket's length, and chunks of at least {_CHUNK_STEP}"
        raise ValueError(msg)
    most = num_tokens // _CHUNK_STEP
    return next(count for count in range(fewest, most + 1) if most % count == 0)
