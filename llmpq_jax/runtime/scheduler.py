"""Schedules sequences over the stages of an engine, with continuous batching.

A step receives the result of one micro-batch, appends its tokens to their sequences, and
sends what became ready.

The sequences of a decode group decode together. A group starts to decode once its last
prompt has left the pipeline, while later groups are still in prefill. A sequence that
finishes frees its slot for one that waits: the new prompt is prefilled into that row of the
group's caches alone, and then the group continues to decode.

Long prompts are prefilled in chunks. The chunks of the first prompts are sent together, to
keep the stages busy; those of a later prompt are sent one by one, so that other groups
decode in between.

When a stage has failed and is recovered, each sequence keeps its slot, and its prompt and
tokens so far are prefilled again. The same follows when logits of a sequence are not finite:
that sequence fails, and the others get new caches, because an attention weight of 0 does not
hide a NaN that is left in a slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np

from llmpq_jax.interrupts import check_interrupt
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.decode_group import (
    BatchSlot,
    DecodeGroup,
    output_for,
    prefill_slots,
)
from llmpq_jax.runtime.engines.engine import Engine, StageFailedError
from llmpq_jax.runtime.scheduled_messages import decode_message, prefill_messages
from llmpq_jax.runtime.sequence import Sequence, WaitingQueue
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL, bucket_length
from llmpq_jax.stage.message import Message, NotFinite
from llmpq_jax.stage.sampling import NOT_FINITE, unpack_logprobs


@dataclass(kw_only=True, slots=True, eq=False)
class Scheduler:
    """Serves sequences through an engine that has its caches (`Engine.allocate`).

    Attributes:
        engine: Engine that runs the micro-batches.
        shape: Shape of the caches and micro-batches.
        sequences: Sequences to serve, in this order; each is read when there is a slot
            for the one before it.
        on_tokens: Called with the number of new tokens of each result.
    """

    engine: Engine
    shape: BatchShape
    sequences: Iterable[Sequence]
    on_tokens: Callable[[int], None] = lambda _: None
    _waiting: WaitingQueue = field(init=False)
    _groups: list[DecodeGroup] = field(init=False)
    # Chunks to send once the one before them is done, by micro-batch.
    _later_chunks: dict[int, deque[Message]] = field(default_factory=dict)
    # Sequences whose logits are not finite, by their slots.
    _failing: dict[BatchSlot, Sequence] = field(default_factory=dict)
    _num_prefills: int = 0
    _in_flight: int = 0

    def run(self) -> Generator[Sequence, None, None]:
        """Yields sequences as they finish.

        If the caller stops early, it waits for the micro-batches in flight, so that the
        engine can serve others.
        """
        self._waiting = WaitingQueue(self.sequences)
        self._groups = [
            DecodeGroup.empty(self.shape.decode_rows)
            for _ in range(self.shape.num_groups)
        ]
        try:
            self._schedule_first()
            while self._in_flight:
                check_interrupt()
                yield from self._step()
        finally:
            while self._in_flight:
                # What a stage raised has been raised already.
                with suppress(Exception):
                    self._receive()

    def _step(self) -> list[Sequence]:
        """Handles one result; returns the sequences that it finished."""
        try:
            result = self._receive()
        except StageFailedError as failure:
            self._recover(failure)
            return []
        finished = self._postprocess(result)
        if self._failing:
            return finished + self._fail_sequences()
        self._schedule(result)
        return finished

    def _receive(self) -> Message:
        # Before the call, because an exception of a stage takes the place of its result.
        self._in_flight -= 1
        return self.engine.next_result()

    def _postprocess(self, result: Message) -> list[Sequence]:
        """Appends a result's tokens to their sequences; returns those that finished."""
        payload = np.asarray(result.payload)
        logprobs = unpack_logprobs(payload) if result.output == "logprobs" else None
        steps = (payload if logprobs is None else logprobs.token_B)[None]
        if result.tokens is not None:
            steps = np.asarray(result.tokens)[: result.num_steps]
        finished: list[Sequence] = []
        num_tokens = 0
        for index, slot in enumerate(self._slots_of(result)):
            if result.phase == "prefill" and not result.ends_prompt(index):
                continue
            group = self._groups[slot.group]
            group.token_B[slot.row] = steps[-1, index]
            if result.phase == "decode":
                group.length_B[slot.row] += len(steps)
            sequence = group.active_in(slot.row)
            if sequence is None or slot in self._failing:
                continue
            for token_id in steps[:, index]:
                if token_id == NOT_FINITE:
                    self._failing[slot] = sequence
                    break
                if logprobs is not None:
                    sequence.append_logprobs(logprobs, index)
                sequence.append(int(token_id))
                num_tokens += 1
                if sequence.is_finished:
                    finished.append(sequence)
                    break
        self.on_tokens(num_tokens)
        return finished

    def _slots_of(self, message: Message) -> list[BatchSlot]:
        """Returns the slot of each row of a micro-batch."""
        rows_per_group = len(message.slot_B) // len(message.groups)
        return [
            BatchSlot(number, message.first_row + index)
            for number in message.groups
            for index in range(rows_per_group)
        ]

    def _schedule(self, result: Message) -> None:
        """Sends what a result made ready: a chunk, prompts that wait, decode steps."""
        if not result.is_last_chunk:
            if chunks := self._later_chunks.get(result.micro_batch):
                self._send(chunks.popleft())
                if not chunks:
                    del self._later_chunks[result.micro_batch]
            return
        for number in result.groups:
            group = self._groups[number]
            if result.phase == "prefill":
                group.num_prefills -= 1
            if group.num_prefills:
                continue
            self._schedule_waiting(number)
            if not group.num_prefills and (active := group.active):
                self._send_decode(number, active, result)

    def _schedule_first(self) -> None:
        """Sends the first prompts, in the plan's micro-batches."""
        for slots in prefill_slots(self.shape):
            if not self._waiting:
                break
            for number, row in slots:
                if self._waiting:
                    self._groups[number].assign(row, self._waiting.pop())
            self._send(*self._prefill(slots, self.shape.num_tokens))

    def _schedule_waiting(self, number: int) -> None:
        """Gives the free rows of a group to sequences that wait."""
        if not self._waiting:
            return
        group = self._groups[number]
        for row in range(self.shape.decode_rows):
            if not self._waiting or group.active_in(row) is not None:
                continue
            sequence = self._waiting.pop()
            group.assign(row, sequence)
            num_tokens = bucket_length(len(sequence.history))
            first, *later = self._prefill([BatchSlot(number, row)], num_tokens)
            self._send(first)
            if later:
                self._later_chunks[first.micro_batch] = deque(later)

    def _prefill(self, slots: list[BatchSlot], num_tokens: int) -> list[Message]:
        """Returns the chunks of one more prefill micro-batch."""
        micro_batch, self._num_prefills = self._num_prefills, self._num_prefills + 1
        return prefill_messages(
            self._groups,
            slots,
            self.shape,
            micro_batch=micro_batch,
            num_tokens=num_tokens,
        )

    def _send_decode(
        self, number: int, active: list[Sequence], previous: Message
    ) -> None:
        """Sends the next decode step of a group, or the next few."""
        output = output_for(active)
        num_steps = 1
        if self.engine.supports_multi_step and output == "tokens":
            # Up to the end of the longest sequence; while others wait for a slot, up to
            # that of the shortest.
            num_left = [sequence.num_left for sequence in active]
            num_steps = min(num_left) if self._waiting else max(num_left)
            num_steps = min(MAX_STEPS_PER_CALL, num_steps)
        self._send(
            decode_message(
                number,
                self._groups[number],
                previous,
                num_slots=self.shape.num_slots,
                num_steps=num_steps,
                output=output,
            )
        )

    def _send(self, *messages: Message) -> None:
        for message in messages:
            self.engine.submit(message)
            self._in_flight += 1

    def _fail_sequences(self) -> list[Sequence]:
        """Ends failing sequences; the others continue with new caches.

        Returns the sequences that finished, failing ones included.
        """
        finished: list[Sequence] = []
        try:
            while self._in_flight:
                finished += self._postprocess(self._receive())
            for slot, sequence in self._failing.items():
                sequence.fail(self._find_not_finite(slot))
        except StageFailedError as failure:
            self._in_flight = 0
            self.engine.recover(failure)
        for sequence in self._failing.values():
            if not sequence.is_finished:
                sequence.fail(None)
        finished += self._failing.values()
        self._failing.clear()
        self._restart()
        return finished

    def _find_not_finite(self, slot: BatchSlot) -> NotFinite | None:
        """Prefills a failing sequence again, and returns where its values stop being finite."""
        self._allocate()
        sequence = self._groups[slot.group].sequences[slot.row]
        assert sequence is not None
        messages = self._prefill([slot], bucket_length(len(sequence.history)))
        self._send(
            *(
                replace(message, checks_finite=True, output="tokens")
                for message in messages
            )
        )
        results = [self._receive() for _ in messages]
        found = (result.not_finite for result in results)
        return next((place for place in found if place is not None), None)

    def _recover(self, failure: StageFailedError) -> None:
        """Recovers a failed stage, and prefills all active sequences again."""
        self._in_flight = 0
        self._failing.clear()
        self.engine.recover(failure)
        self._restart()

    def _allocate(self) -> None:
        shape = self.shape
        self.engine.allocate(
            num_groups=shape.num_groups,
            num_rows=shape.decode_rows,
            num_slots=shape.num_slots,
        )

    def _restart(self) -> None:
        """Prefills all active sequences again, into new caches."""
        self._later_chunks.clear()
        shape = self.shape
        self._allocate()
        for group in self._groups:
            group.num_prefills = 0
        for slots in prefill_slots(shape):
            lengths = [
                len(sequence.history)
                for number, row in slots
                if (sequence := self._groups[number].active_in(row)) is not None
            ]
            if lengths:
                self._send(*self._prefill(slots, bucket_length(max(lengths))))
        for number, group in enumerate(self._groups):
            if not group.num_prefills:
                self._schedule_waiting(number)
