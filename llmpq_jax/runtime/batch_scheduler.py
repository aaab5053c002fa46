"""Schedules a batch of sequences that are all known, with continuous batching.

The sequences of a decode group decode together. A group starts to decode once its last
prompt has left the pipeline, while later groups are still in prefill. A sequence that
finishes frees its slot for one that waits: the new prompt is prefilled into that row of the
group's caches alone, and then the group continues to decode.

Long prompts are prefilled in chunks. The chunks of the first prompts are sent together, to
keep the stages busy; those of a later prompt are sent one by one, so that other groups
decode in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.decode_group import BatchSlot, prefill_slots
from llmpq_jax.runtime.engines.engine import Engine
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.scheduled_messages import prefill_messages
from llmpq_jax.runtime.scheduler import Scheduler
from llmpq_jax.runtime.sequence import Sequence, WaitingQueue
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL, bucket_length
from llmpq_jax.stage.message import Message


class BatchScheduler(Scheduler):
    """Serves sequences until all have finished."""

    def __init__(
        self,
        *,
        engine: Engine,
        shape: BatchShape,
        sequences: Iterable[Sequence],
        head_inputs: HeadInputs,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Takes the sequences in the order in which they get slots.

        Each is read when there is a slot for the one before it. `head_inputs` makes what
        the head needs of each micro-batch.
        """
        super().__init__(engine=engine, shape=shape, on_tokens=on_tokens)
        self._waiting = WaitingQueue(sequences)
        self._head_inputs = head_inputs
        # Chunks to send once the one before them is done, by micro-batch.
        self._later_chunks: dict[int, deque[Message]] = {}
        self._num_prefills = 0

    def _start(self) -> None:
        """Sends the first prompts, in the plan's micro-batches."""
        for slots in prefill_slots(self.shape):
            if not self._waiting:
                break
            for number, row in slots:
                if self._waiting:
                    self.groups[number].assign(row, self._waiting.pop())
            self._send(*self._prefill(slots, self.shape.num_tokens))

    def _wait(self) -> bool:
        """Ends the run: all sequences are known from the start."""
        return False

    def _schedule(self, result: Message) -> None:
        """Sends what a result made ready: a chunk, prompts that wait, decode steps."""
        if not result.is_last_chunk:
            if chunks := self._later_chunks.get(result.micro_batch):
                self._send(chunks.popleft())
                if not chunks:
                    del self._later_chunks[result.micro_batch]
            return
        for number in result.groups:
            group = self.groups[number]
            if result.phase == "prefill":
                group.num_prefills -= 1
            if group.num_prefills:
                continue
            self._schedule_waiting(number)
            if not group.num_prefills and (decoding := group.decoding):
                head = self._head_inputs.of_rows(decoding, self.shape.decode_rows)
                self._send(
                    self._decode_message(
                        number,
                        decoding,
                        result,
                        head,
                        max_steps=MAX_STEPS_PER_CALL,
                        has_waiting=bool(self._waiting),
                    )
                )

    def _schedule_waiting(self, number: int) -> None:
        """Gives the free rows of a group to sequences that wait."""
        if not self._waiting:
            return
        group = self.groups[number]
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
            self.groups,
            slots,
            self.shape,
            micro_batch=micro_batch,
            num_tokens=num_tokens,
            head_inputs=self._head_inputs,
        )

    def _prefill_slot(self, slot: BatchSlot) -> list[Message]:
        """Returns the chunks in which a slot's sequence is prefilled again."""
        sequence = self.groups[slot.group].sequences[slot.row]
        assert sequence is not None
        return self._prefill([slot], bucket_length(len(sequence.history)))

    def _restart(self) -> None:
        """Prefills all active sequences again, into new caches."""
        self._later_chunks.clear()
        shape = self.shape
        self.allocate()
        for group in self.groups:
            group.num_prefills = 0
            group.prefilling.clear()
        for slots in prefill_slots(shape):
            lengths = [
                len(sequence.history)
                for number, row in slots
                if (sequence := self.groups[number].active_in(row)) is not None
            ]
            if lengths:
                self._send(*self._prefill(slots, bucket_length(max(lengths))))
        for number, group in enumerate(self.groups):
            if not group.num_prefills:
                self._schedule_waiting(number)
