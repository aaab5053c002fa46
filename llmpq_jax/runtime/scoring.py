"""Scores given tokens with the stages that also generate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.engines.engine import Engine, StageFailedError
from llmpq_jax.schema.buckets import bucket_length, num_prefill_chunks
from llmpq_jax.schema.workload import MicroBatch
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows


def score(
    engine: Engine,
    micro_batch: MicroBatch,
    token_ids: np.ndarray | Sequence[Sequence[int]],
    *,
    stepwise: bool,
) -> Float[np.ndarray, "B L V"]:
    """Returns logits after each token of rows of equal length; see `Pipeline.score`.

    Raises:
        RequestError: If rows have unequal lengths or no tokens.
    """
    try:
        token_BL = np.asarray(token_ids, np.int32)
    except ValueError as reason:
        msg = (
            "rows of unequal length cannot be scored together: expected [batch, length]"
        )
        raise RequestError(msg) from reason
    if token_BL.ndim != 2 or token_BL.size == 0:
        msg = f"token_ids have the shape {list(token_BL.shape)}: expected [batch, length], not empty"
        raise RequestError(msg)
    score_rows = _score_stepwise if stepwise else _score_whole
    while True:
        try:
            return score_rows(engine, micro_batch, token_BL)
        except StageFailedError as failure:
            engine.recover(failure)


def _score_whole(
    engine: Engine, micro_batch: MicroBatch, token_BL: Int[np.ndarray, "B L"]
) -> Float[np.ndarray, "B L V"]:
    """Prefills whole rows, long ones in the plan's chunks."""
    num_rows, length = token_BL.shape
    rows = micro_batch.prefill
    num_tokens = bucket_length(length)
    num_chunks = num_prefill_chunks(num_tokens, micro_batch.chunk_tokens)
    padded = _padded(token_BL, rows, num_tokens)
    num_parts = len(padded) // rows
    engine.allocate(num_groups=num_parts, num_rows=rows, num_slots=num_tokens)
    for part in range(num_parts):
        tokens = padded[part * rows : (part + 1) * rows]
        lengths = np.full(rows, length, np.int32)
        for step in range(num_chunks):
            engine.submit(_prefill(part, tokens, lengths, step, num_chunks))
    chunks = _collect(engine, num_parts * num_chunks)
    by_part = chunks.reshape(num_parts, num_chunks, rows, -1, chunks.shape[-1])
    logits = by_part.swapaxes(1, 2).reshape(num_parts * rows, num_tokens, -1)
    return logits[:num_rows, :length]


def _score_stepwise(
    engine: Engine, micro_batch: MicroBatch, token_BL: Int[np.ndarray, "B L"]
) -> Float[np.ndarray, "B L V"]:
    """Prefills the first token of each row and decodes the others.

    So decoding can be compared with a reference.
    """
    num_rows, length = token_BL.shape
    rows = micro_batch.decode
    padded = _padded(token_BL, rows, length)
    num_groups = len(padded) // rows
    num_slots = bucket_length(length)
    engine.allocate(num_groups=num_groups, num_rows=rows, num_slots=num_slots)
    parts = [padded[group * rows : (group + 1) * rows] for group in range(num_groups)]
    ones = np.ones(rows, np.int32)
    for group, tokens in enumerate(parts):
        engine.submit(_prefill(group, tokens[:, :1], ones))
    columns = [_collect(engine, num_groups)[:, 0]]
    for position in range(1, length):
        for group, tokens in enumerate(parts):
            message = Message(
                phase="decode",
                micro_batch=group,
                step=position,
                groups=(group,),
                payload=np.ascontiguousarray(tokens[:, position]),
                slot_B=ones * position,
                sampling=greedy_rows(rows),
                output="logits",
            )
            engine.submit(message)
        columns.append(_collect(engine, num_groups))
    return np.stack(columns, axis=1)[:num_rows]


def _prefill(
    group: int,
    tokens: np.ndarray,
    lengths: np.ndarray,
    step: int = 0,
    num_chunks: int = 1,
) -> Message:
    chunk_tokens = tokens.shape[1] // num_chunks
    chunk = tokens[:, step * chunk_tokens : (step + 1) * chunk_tokens]
    return Message(
        phase="prefill",
        micro_batch=group,
        step=step,
        groups=(group,),
        payload=np.ascontiguousarray(chunk),
        slot_B=lengths,
        sampling=greedy_rows(len(tokens)),
        output="logits",
        num_chunks=num_chunks,
        chunk_tokens=chunk_tokens,
        first_position=None if num_chunks == 1 else step * chunk_tokens,
    )


def _padded(token_BL: np.ndarray, rows: int, num_tokens: int) -> np.ndarray:
    num_rows = -(-len(token_BL) // rows) * rows
    padded = np.zeros((num_rows, num_tokens), np.int32)
    padded[: len(token_BL), : token_BL.shape[1]] = token_BL
    return padded


def _collect(engine: Engine, count: int) -> np.ndarray:
    """Waits for `count` results, and returns their logits in the order of micro-batches."""
    results = [engine.next_result() for _ in range(count)]
    results.sort(key=lambda message: (message.micro_batch, message.step))
    return np.concatenate([np.asarray(result.payload) for result in results])
