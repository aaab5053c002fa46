"""What schedulers share: results are received, and their tokens go to their sequences.

A step receives the result of one micro-batch, appends its tokens to their sequences, and
sends what became ready. What that is, a `BatchScheduler` and an `OnlineScheduler` decide.

When a stage has failed and is recovered, each sequence keeps its slot, and its prompt and
tokens so far are prefilled again. The same follows when logits of a sequence are not finite:
that sequence fails, and the others get new caches, because an attention weight of 0 does not
hide a NaN that is left in a slot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np

from llmpq_jax.interrupts import check_interrupt
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.decode_group import BatchSlot, DecodeGroup
from llmpq_jax.runtime.engines.engine import Engine, StageFailedError
from llmpq_jax.runtime.head_inputs import HeadInput
from llmpq_jax.runtime.scheduled_messages import decode_message
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.stage.message import Message, NotFinite
from llmpq_jax.stage.sampling import NOT_FINITE, Logprobs, unpack_logprobs

# Outputs that have log-probabilities with each token.
_PACKED = ("logprobs", "adjusted_logprobs", "prompt_logprobs")


class Scheduler(ABC):
    """Serves sequences through an engine that has its caches (`allocate`).

    Attributes:
        engine: Engine that runs the micro-batches.
        shape: Shape of the caches and micro-batches.
        on_tokens: Called with the number of new tokens of each result.
        on_progress: Called with each sequence that got tokens.
        groups: Decode groups, each of which has `shape.decode_rows` rows.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        shape: BatchShape,
        on_tokens: Callable[[int], None] = lambda _: None,
        on_progress: Callable[[Sequence], None] = lambda _: None,
    ) -> None:
        """Starts with empty groups."""
        self.engine = engine
        self.shape = shape
        self.on_tokens = on_tokens
        self.on_progress = on_progress
        self.groups = [
            DecodeGroup.empty(shape.decode_rows) for _ in range(shape.num_groups)
        ]
        self._in_flight = 0
        # Sequences whose logits are not finite, by their slots.
        self._failing: dict[BatchSlot, Sequence] = {}
        # Sequences that got tokens and are not reported yet.
        self._progressed: list[Sequence] = []

    @abstractmethod
    def _start(self) -> None:
        """Sends what is ready before the first result."""

    @abstractmethod
    def _wait(self) -> bool:
        """Waits for work while nothing is in flight; returns whether there is any more."""

    @abstractmethod
    def _schedule(self, result: Message) -> None:
        """Sends what a result made ready."""

    @abstractmethod
    def _prefill_slot(self, slot: BatchSlot) -> list[Message]:
        """Returns the chunks in which a slot's sequence is prefilled again."""

    @abstractmethod
    def _restart(self) -> None:
        """Prefills all active sequences again, into new caches."""

    def run(self) -> Generator[Sequence, None, None]:
        """Yields sequences as they finish.

        If the caller stops early, it waits for the micro-batches in flight, so that the
        engine can serve others.
        """
        try:
            self._start()
            while self._in_flight or self._wait():
                check_interrupt()
                if self._in_flight:
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
        try:
            if self._failing:
                return finished + self._fail_sequences()
            self._schedule(result)
        finally:
            self._report_progress()
        return finished

    def _report_progress(self) -> None:
        """Reports tokens once the next micro-batch is sent: stages do not wait for readers."""
        progressed, self._progressed = self._progressed, []
        for sequence in progressed:
            self.on_progress(sequence)

    def _receive(self) -> Message:
        # Before the call, because an exception of a stage takes the place of its result.
        self._in_flight -= 1
        return self.engine.next_result()

    def _postprocess(self, result: Message) -> list[Sequence]:
        """Appends a result's tokens to their sequences; returns those that finished."""
        payload = np.asarray(result.payload)
        if result.output == "prompt_logprobs":
            # Those of the next token come first.
            self._add_prompt_logprobs(result, unpack_logprobs(payload[1:]))
            payload = payload[:1]
        logprobs = unpack_logprobs(payload) if result.output in _PACKED else None
        steps = (payload if logprobs is None else logprobs.token_B)[None]
        if result.tokens is not None:
            steps = np.asarray(result.tokens)[: result.num_steps]
        finished: list[Sequence] = []
        num_tokens = 0
        for index, slot in enumerate(self._slots_of(result)):
            group = self.groups[slot.group]
            if result.phase == "prefill":
                if not result.ends_prompt(index):
                    continue
                group.prefilling.discard(slot.row)
            sequence = group.decoding_in(slot.row)
            if sequence is None or slot in self._failing:
                continue
            group.token_B[slot.row] = steps[-1, index]
            if result.phase == "decode":
                group.length_B[slot.row] += len(steps)
            for token_id in steps[:, index]:
                if token_id == NOT_FINITE:
                    self._failing[slot] = sequence
                    break
                if logprobs is not None:
                    sequence.append_logprobs(logprobs, index)
                sequence.append(int(token_id))
                num_tokens += 1
                if sequence.is_finished:
                    group.release(slot.row)
                    finished.append(sequence)
                    break
            self._progressed.append(sequence)
        self.on_tokens(num_tokens)
        return finished

    def _add_prompt_logprobs(self, result: Message, logprobs: Logprobs) -> None:
        (slot,) = self._slots_of(result)
        sequence = self.groups[slot.group].active_in(slot.row)
        if sequence is not None:
            sequence.add_prompt_logprobs(logprobs, result.first_position or 0)

    def _slots_of(self, message: Message) -> list[BatchSlot]:
        """Returns the slot of each row of a micro-batch."""
        rows_per_group = len(message.slot_B) // len(message.groups)
        return [
            BatchSlot(number, message.first_row + index)
            for number in message.groups
            for index in range(rows_per_group)
        ]

    def _decode_message(
        self,
        number: int,
        decoding: Mapping[int, Sequence],
        previous: Message | None,
        head: HeadInput,
        *,
        max_steps: int,
        has_waiting: bool,
    ) -> Message:
        """Returns the next decode step of a group, or the next few, after its last result.

        They go up to the end of the longest sequence; while others wait for a slot, up to
        that of the shortest.
        """
        num_steps = 1
        if self.engine.supports_multi_step and head.output == "tokens":
            num_left = [sequence.num_left for sequence in decoding.values()]
            num_steps = min(num_left) if has_waiting else max(num_left)
        return decode_message(
            number,
            self.groups[number],
            previous,
            num_slots=self.shape.num_slots,
            num_steps=min(max_steps, num_steps),
            output=head.output,
            head_inputs=head.inputs,
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
        self.allocate()
        sequence = self.groups[slot.group].sequences[slot.row]
        assert sequence is not None
        messages = self._prefill_slot(slot)
        self._send(
            *(
                replace(message, checks_finite=True, output="tokens", head_inputs=None)
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

    def allocate(self) -> None:
        """Makes the engine's caches, in which nothing is held."""
        shape = self.shape
        self.engine.allocate(
            num_groups=shape.num_groups,
            num_rows=shape.decode_rows,
            num_slots=shape.num_slots,
        )
