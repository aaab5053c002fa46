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
