"""Which micro-batch sizes are tried."""

from __future__ import annotations

from llmpq_jax.schema.workload import MicroBatch


def micro_batches(
    batch: int, *, prefill: int | None = None, decode: int | None = None
) -> tuple[MicroBatch, ...]:
    """Lists the pairs of micro-batch sizes worth trying, smallest first.

    Sizes are the batch's divisors, which leave no row idle, and the powers of two below
    it, for which kernels are fast. Of a pair, one divides the other, as caches demand.

    Args:
        batch: Rows of the batch.
        prefill: Pinned rows of a prefill micro-batch; None leaves them free.
        decode: Pinned rows of a decode micro-batch; None leaves them free.

    Raises:
        ValueError: If both are pinned and neither divides the other.
    """
    if prefill is not None and decode is not None:
        return (MicroBatch(prefill=prefill, decode=decode),)
    sizes = [rows for rows in range(1, batch + 1) if _is_worth_trying(rows, batch)]
    return tuple(
        MicroBatch(prefill=p, decode=d)
        for p in ([prefill] if prefill else sizes)
        for d in ([decode] if decode else sizes)
        if p % d == 0 or d % p == 0
    )


def _is_worth_trying(rows: int, batch: int) -> bool:
    return batch % rows == 0 or rows & (rows - 1) == 0
