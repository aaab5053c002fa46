"""Schedules sequences that come and go at any time.

A sequence gets a free slot in the order of arrival. Its prompt is prefilled in chunks into
that row of the group's caches, and the other rows of the group decode between the chunks. A
group has one micro-batch in the pipeline at a time; other groups fill the other stages.

A slot that became free keeps its cache. A prompt that begins like what is in one of them, as
the next turn of a conversation does, gets that slot, and only its new tokens are computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.cached_prefixes import CachedPrefixes
from llmpq_jax.runtime.decode_group import BatchSlot
from llmpq_jax.runtime.engines.engine import Engine
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.inbox import Inbox
from llmpq_jax.runtime.scheduled_messages import chunk_message
from llmpq_jax.runtime.scheduler import Scheduler
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL, cut_prompt, online_chunk_sizes
from llmpq_jax.stage.message import Message

# Signals of the process are looked for this often while nothing is to be done.
_POLL_S = 0.2


@dataclass(kw_only=True, slots=True, eq=False)
class _PromptChunks:
    """The chunks of a prompt that are still to be computed.

    Attributes:
        slot: Slot of the sequence.
        sequence: Sequence whose history is computed.
        chunks: First position and length of each chunk left.
        number: Number of the prompt among all that were admitted.
        num_chunks: Number of all chunks.
        num_held: Tokens of the prompt that the cache holds.
        is_overwritten: Whether the first of them have to be computed again before the
            others are of use.
    """

    slot: BatchSlot
    sequence: Sequence
    chunks: deque[tuple[int, int]]
    number: int
    num_chunks: int
    num_held: int
    is_overwritten: bool


@dataclass(kw_only=True, slots=True)
class OnlineCounters:
    """What an online scheduler has done so far, and what it has to do.

    Attributes:
        num_cached_tokens: Tokens of prompts that their slots' caches held already.
        num_waiting: Sequences that wait for a slot.
        num_running: Sequences that have one.
        num_held_tokens: Tokens of running sequences that caches hold.
    """

    num_cached_tokens: int = 0
    num_waiting: int = 0
    num_running: int = 0
    num_held_tokens: int = 0


class OnlineScheduler(Scheduler):
    """Serves the sequences of an inbox until it is closed.

    Attributes:
        counters: What it has done so far.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        shape: BatchShape,
        inbox: Inbox,
        head_inputs: HeadInputs,
        max_steps: int = MAX_STEPS_PER_CALL,
        on_tokens: Callable[[int], None] = lambda _: None,
        on_progress: Callable[[Sequence], None] = lambda _: None,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts with free slots.

        Args:
            engine: Engine, which has its caches.
            shape: Shape of the caches and micro-batches.
            inbox: Sequences to serve and to cancel.
            head_inputs: Makes what the head needs of each micro-batch.
            max_steps: Largest number of decode steps without a return to the scheduler.
            on_tokens: Called with the number of new tokens of each result.
            on_progress: Called with each sequence that got tokens or ended.
            on_step: Called after each result is handled.
        """
        super().__init__(
            engine=engine, shape=shape, on_tokens=on_tokens, on_progress=on_progress
        )
        self.counters = OnlineCounters()
        self._inbox = inbox
        self._on_step = on_step
        self._head_inputs = head_inputs
        self._max_steps = max_steps
        self._sizes = online_chunk_sizes(shape.chunk_tokens, shape.num_slots)
        self._waiting: deque[Sequence] = deque()
        self._free = CachedPrefixes(self._slots())
        # Prompts to be computed, by group, in the order of admission.
        self._prompts: list[deque[_PromptChunks]] = [deque() for _ in self.groups]
        # Groups with a micro-batch in flight, each with the prompt of which it is a chunk.
        self._busy: dict[int, _PromptChunks | None] = {}
        self._num_prompts = 0

    def _slots(self) -> list[BatchSlot]:
        return [
            BatchSlot(number, row)
            for number in range(self.shape.num_groups)
            for row in range(self.shape.decode_rows)
        ]

    def _start(self) -> None:
        """Sends nothing: sequences come while it runs."""

    def _wait(self) -> bool:
        """Waits for sequences; returns whether there is or may be more to do."""
        self._schedule_idle()
        if self._in_flight:
            return True
        if self._inbox.is_closed and self._inbox.is_empty:
            return False
        self._inbox.wait(_POLL_S)
        return True

    def _schedule(self, result: Message) -> None:
        """Sends what the groups without a micro-batch in flight have ready."""
        (number,) = result.groups
        prompt = self._busy.pop(number)
        if prompt is not None:
            computed = (result.first_position or 0) + result.chunk_tokens
            prompt.num_held = max(prompt.num_held, computed)
            # The first chunk begins at the first token, or is behind intact ones.
            prompt.is_overwritten = False
        for row in range(self.shape.decode_rows):
            self._release_if_finished(BatchSlot(number, row))
        self._schedule_idle(after=result)
        self._on_step()

    def _schedule_idle(self, after: Message | None = None) -> None:
        """Reads the inbox, fills free slots, and sends what idle groups have ready."""
        for sequence, is_cancelled in self._inbox.take():
            if is_cancelled:
                self._cancel(sequence)
            else:
                self._waiting.append(sequence)
        while self._waiting and self._free:
            self._admit(self._waiting.popleft())
        for number in range(self.shape.num_groups):
            if number not in self._busy:
                is_next = after is not None and after.groups == (number,)
                self._send_next(number, after if is_next else None)
        self._count()

    def _cancel(self, sequence: Sequence) -> None:
        if sequence.is_finished:
            return
        sequence.cancel()
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        for slot in self._slots():
            # A busy group's rows are freed when its result comes.
            if slot.group not in self._busy:
                self._release_if_finished(slot)
        self.on_progress(sequence)

    def _release_if_finished(self, slot: BatchSlot) -> None:
        """Frees a slot whose sequence has finished, with what its cache holds."""
        group = self.groups[slot.group]
        sequence = group.sequences[slot.row]
        if slot in self._free or sequence is None or not sequence.is_finished:
            return
        # The last token's keys and values are not computed; the last slot may have those
        # of a token that was dropped.
        num_held = min(len(sequence.history), self.shape.num_slots) - 1
        is_overwritten = False
        prompts = self._prompts[slot.group]
        for prompt in [each for each in prompts if each.sequence is sequence]:
            num_held = min(num_held, prompt.num_held)
            is_overwritten = prompt.is_overwritten
            prompts.remove(prompt)
        if sequence.finish_reason == "error":
            num_held = 0
        group.release(slot.row)
        self._free.add(slot, sequence.history[:num_held], is_overwritten=is_overwritten)

    def _admit(self, sequence: Sequence) -> None:
        """Gives a sequence the free slot that holds most of its prompt."""
        history = sequence.history
        slot, num_held = self._free.best(
            history, reuses=not sequence.request.wants_prompt_logprobs
        )
        recomputed = self._free.take(slot, num_held)
        group = self.groups[slot.group]
        group.assign(slot.row, sequence)
        prompt = self._add_prompt(
            slot, [*recomputed, (num_held, len(history))], num_held
        )
        prompt.is_overwritten = bool(recomputed)
        self.counters.num_cached_tokens += num_held

    def _add_prompt(
        self, slot: BatchSlot, ranges: list[tuple[int, int]], num_held: int
    ) -> _PromptChunks:
        """Adds the parts of a slot's prompt that are to be computed."""
        group = self.groups[slot.group]
        sequence = group.sequences[slot.row]
        assert sequence is not None
        # Decode steps of other rows write there until it is this row's turn.
        group.length_B[slot.row] = len(sequence.history)
        num_slots = self.shape.num_slots
        chunks = deque(
            chunk
            for start, end in ranges
            for chunk in cut_prompt(start, end, sizes=self._sizes, num_slots=num_slots)
        )
        prompt = _PromptChunks(
            slot=slot,
            sequence=sequence,
            chunks=chunks,
            number=self._num_prompts,
            num_chunks=len(chunks),
            num_held=num_held,
            is_overwritten=False,
        )
        self._num_prompts += 1
        self._prompts[slot.group].append(prompt)
        return prompt

    def _send_next(self, number: int, previous: Message | None) -> None:
        """Sends an idle group's next micro-batch: chunks and decode steps take turns."""
        decoding = self.groups[number].decoding
        prompts = self._prompts[number]
        is_chunk_next = previous is None or previous.phase == "decode" or not decoding
        if prompts and is_chunk_next:
            prompt = prompts[0]
            self._send(self._next_chunk(prompt))
            self._busy[number] = prompt
            if not prompt.chunks:
                prompts.popleft()
        elif decoding:
            self._free.overwrite(number)
            head = self._head_inputs.of_decode(decoding, self.shape.decode_rows)
            self._send(
                self._decode_message(
                    number,
                    decoding,
                    previous,
                    head,
                    # Prompts of the group get their turn after each step.
                    max_steps=1 if prompts else self._max_steps,
                    has_waiting=bool(self._waiting),
                )
            )
            self._busy[number] = None

    def _next_chunk(self, prompt: _PromptChunks) -> Message:
        first, size = prompt.chunks.popleft()
        head = self._head_inputs.of_chunk(
            prompt.sequence, first, size, is_last=not prompt.chunks
        )
        return chunk_message(
            self.groups[prompt.slot.group],
            prompt.slot,
            prompt.sequence.history[first : first + size],
            micro_batch=prompt.number,
            first_position=first,
            chunk_tokens=size,
            step=prompt.num_chunks - len(prompt.chunks) - 1,
            num_chunks=prompt.num_chunks,
            output=head.output,
            head_inputs=head.inputs,
        )

    def _prefill_slot(self, slot: BatchSlot) -> list[Message]:
        """Returns the chunks in which a slot's sequence is prefilled again."""
        sequence = self.groups[slot.group].sequences[slot.row]
        assert sequence is not None
        prompt = self._add_prompt(slot, [(0, len(sequence.history))], 0)
        self._prompts[slot.group].remove(prompt)
        return [self._next_chunk(prompt) for _ in range(len(prompt.chunks))]

    def _restart(self) -> None:
        """Prefills all active sequences again, into new caches."""
        self.allocate()
        self._busy.clear()
        for prompts in self._prompts:
            prompts.clear()
        free: list[BatchSlot] = []
        for slot in self._slots():
            group = self.groups[slot.group]
            sequence = group.active_in(slot.row)
            if sequence is None:
                group.release(slot.row)
                free.append(slot)
                continue
            group.assign(slot.row, sequence)
            self._add_prompt(slot, [(0, len(sequence.history))], 0)
        self._free.clear(free)
        self._schedule_idle()

    def _count(self) -> None:
        counters = self.counters
        counters.num_waiting = len(self._waiting)
        counters.num_running = self.shape.num_rows - len(self._free)
        counters.num_held_tokens = sum(int(each.length_B.sum()) for each in self.groups)
