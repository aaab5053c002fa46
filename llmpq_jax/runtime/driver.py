"""Drives one batch through the stages: prefill micro-batches, then decode groups.

A group is the rows of one decode micro-batch; it has a cache of its own on each stage.
Decoding of a group begins as soon as its last prompt has left the pipeline, while later
groups are still in prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from llmpq_jax.runtime.rows import Row
from llmpq_jax.spec.buckets import bucket_length
from llmpq_jax.spec.workload import MicroBatch
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import SamplingRows, sampling_rows
from llmpq_jax.stage.worker import StageWorker


class Engine(Protocol):
    """What the driver needs of an engine."""

    @property
    def workers(self) -> Sequence[StageWorker]:
        """The stages, in pipeline order."""
        ...

    def submit(self, message: Message) -> None:
        """Sends a micro-batch into the first stage."""
        ...

    def next_result(self) -> Message:
        """Waits for a micro-batch to leave the last stage."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """The shapes a batch is served in.

    Attributes:
        num_groups: Decode groups, counting those that only fill a prefill up.
        prefill_rows: Rows of a prefill micro-batch.
        decode_rows: Rows of a decode group.
        num_tokens: Slots of a prompt, padding included.
        num_slots: Slots of the cache.
    """

    num_groups: int
    prefill_rows: int
    decode_rows: int
    num_tokens: int
    num_slots: int

    @classmethod
    def of(
        cls,
        micro_batch: MicroBatch,
        num_rows: int,
        prompt_length: int,
        context_length: int,
    ) -> BatchShape:
        """Rounds a batch up to whole micro-batches and length buckets."""
        decode_rows = micro_batch.decode
        together = max(1, micro_batch.prefill // decode_rows)
        groups = -(-num_rows // (decode_rows * together)) * together
        return cls(
            num_groups=groups,
            prefill_rows=micro_batch.prefill,
            decode_rows=decode_rows,
            num_tokens=bucket_length(prompt_length),
            num_slots=max(bucket_length(context_length), bucket_length(prompt_length)),
        )

    @property
    def num_rows(self) -> int:
        """Rows in all, padding included."""
        return self.num_groups * self.decode_rows


def allocate(engine: Engine, shape: BatchShape) -> None:
    """Makes every stage's caches for a batch."""
    for worker in engine.workers:
        worker.allocate(
            num_groups=shape.num_groups,
            num_rows=shape.decode_rows,
            num_slots=shape.num_slots,
        )


class BatchDriver:
    """Serves one batch of rows to their ends."""

    def __init__(
        self,
        engine: Engine,
        shape: BatchShape,
        rows: Sequence[Row],
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Takes the rows of the batch; `on_tokens` hears of new tokens as they come."""
        self._engine = engine
        self._shape = shape
        self._rows = rows
        self._on_tokens = on_tokens
        self._lengths = np.ones(shape.num_rows, np.int32)
        self._lengths[: len(rows)] = [len(row.request.token_ids) for row in rows]
        self._prompts = np.zeros((shape.num_rows, shape.num_tokens), np.int32)
        for index, row in enumerate(rows):
            self._prompts[index, : self._lengths[index]] = row.request.token_ids
        self._sampling = self._pack_sampling()
        self._first_tokens = np.zeros(shape.num_rows, np.int32)

    def run(self) -> None:
        """Serves until every row is finished; caches are there already (`allocate`)."""
        prefills_left = [0] * self._shape.num_groups
        in_flight = 0
        for message in self._prefill_messages():
            for group in message.groups:
                prefills_left[group] += 1
            self._engine.submit(message)
            in_flight += 1
        while in_flight:
            result = self._engine.next_result()
            in_flight -= 1
            self._take_tokens(result)
            for group in result.groups:
                if result.phase == "prefill":
                    prefills_left[group] -= 1
                    if prefills_left[group]:
                        continue
                if self._is_finished(group):
                    continue
                self._engine.submit(self._decode_message(group, result))
                in_flight += 1

    def _prefill_messages(self) -> list[Message]:
        shape = self._shape
        messages = []
        for start in range(0, shape.num_rows, shape.prefill_rows):
            if start >= len(self._rows):
                break
            rows = slice(start, start + shape.prefill_rows)
            first_group = start // shape.decode_rows
            num_groups = max(1, shape.prefill_rows // shape.decode_rows)
            messages.append(
                Message(
                    phase="prefill",
                    micro_batch=start // shape.prefill_rows,
                    step=0,
                    groups=tuple(range(first_group, first_group + num_groups)),
                    first_row=start % shape.decode_rows,
                    payload=self._prompts[rows],
                    place_B=self._lengths[rows],
                    sampling=_rows_of(self._sampling, rows),
                )
            )
        return messages

    def _decode_message(self, group: int, previous: Message) -> Message:
        rows = self._rows_of_group(group)
        step = previous.step + 1
        # After prefill the group's tokens may come from several micro-batches; from
        # then on they go back to the first stage without a stop on the host.
        is_first = previous.phase == "prefill"
        position = self._lengths[rows] + step - 1
        return Message(
            phase="decode",
            micro_batch=group,
            step=step,
            groups=(group,),
            first_row=0,
            payload=self._first_tokens[rows] if is_first else previous.payload,
            place_B=np.minimum(position, self._shape.num_slots - 1).astype(np.int32),
            sampling=_rows_of(self._sampling, rows),
        )

    def _take_tokens(self, result: Message) -> None:
        tokens = np.asarray(result.payload)
        if result.phase == "prefill":
            start = result.micro_batch * self._shape.prefill_rows
            self._first_tokens[start : start + len(tokens)] = tokens
        else:
            start = result.groups[0] * self._shape.decode_rows
        taken = 0
        for row, token in zip(
            self._rows[start : start + len(tokens)], tokens, strict=False
        ):
            if not row.is_finished:
                row.add(int(token))
                taken += 1
        self._on_tokens(taken)

    def _is_finished(self, group: int) -> bool:
        rows = self._rows[self._rows_of_group(group)]
        return all(row.is_finished for row in rows)

    def _rows_of_group(self, group: int) -> slice:
        start = group * self._shape.decode_rows
        return slice(start, start + self._shape.decode_rows)

    def _pack_sampling(self) -> SamplingRows:
        choices = [row.request.sampling for row in self._rows]
        padding = self._shape.num_rows - len(choices)
        return sampling_rows(
            [choice.temperature for choice in choices] + [0.0] * padding,
            [choice.top_k for choice in choices] + [0] * padding,
            [choice.top_p for choice in choices] + [1.0] * padding,
            [choice.seed for choice in choices] + [0] * padding,
        )


def _rows_of(sampling: SamplingRows, rows: slice) -> SamplingRows:
    return SamplingRows(
        temperature_B=sampling.temperature_B[rows],
        top_k_B=sampling.top_k_B[rows],
        top_p_B=sampling.top_p_B[rows],
        seed_B=sampling.seed_B[rows],
    )
