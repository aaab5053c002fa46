"""Drives requests through the stages: prefill micro-batches, then decode groups.

A group is the rows of one decode micro-batch; it has a cache of its own on each stage.
Decoding of a group begins as soon as its last prompt has left the pipeline, while later
groups are still in prefill. A row that ends makes room for a request that waits: its
prompt is prefilled into the group's cache alone, and the group decodes on. Long prompts
come in chunks: the first ones all at once, which keeps the stages busy, a later one chunk
by chunk, so that other groups decode in between. When a stage is lost and had back, each
row keeps its place, and what was known of it is prefilled again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.engines.engine import Engine, StageFailedError
from llmpq_jax.runtime.request import TokenLogprobs
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.schema.buckets import STEPS_AT_ONCE, bucket_length
from llmpq_jax.stage.compiled import Wanted
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import (
    Logprobs,
    SamplingRows,
    greedy_rows,
    unpack_logprobs,
)


@dataclass(kw_only=True, slots=True, eq=False)
class _Group:
    """Rows that decode together, place by place.

    Attributes:
        sequences: Who holds each place; None where nobody does.
        length_B: Tokens of each row that the caches hold, its prompt at first.
        token_B: The last token of each row, to be fed next.
        sampling: Of each row.
        prefills_left: Prefill micro-batches on their way.
        num_steps: Decode steps sent so far.
    """

    sequences: list[Sequence | None]
    length_B: np.ndarray
    token_B: np.ndarray
    sampling: SamplingRows
    prefills_left: int = 0
    num_steps: int = 0

    @property
    def active(self) -> list[Sequence]:
        """Rows that want more tokens."""
        return [
            sequence
            for sequence in self.sequences
            if sequence is not None and not sequence.is_finished
        ]


class _Waiting:
    """Rows that have no place yet; only the next one is held."""

    def __init__(self, sequences: Iterable[Sequence]) -> None:
        self._sequences = iter(sequences)
        self._next = next(self._sequences, None)

    def __bool__(self) -> bool:
        return self._next is not None

    @property
    def num_tokens(self) -> int:
        """Tokens of the next one that are prefilled."""
        assert self._next is not None
        return len(self._next.history)

    def take(self) -> Sequence:
        """Returns the next one."""
        assert self._next is not None
        taken, self._next = self._next, next(self._sequences, None)
        return taken


@dataclass(kw_only=True, slots=True, eq=False)
class Scheduler:
    """Serves rows to their ends; caches are there already (`Engine.allocate`).

    Attributes:
        engine: Takes micro-batches.
        shape: Of caches and micro-batches.
        sequences: To be served, in this order; each is read when there is a place for the
            one before it.
        on_tokens: Hears how many new tokens have come, as they come.
        num_prefills: Prefill micro-batches sent so far.
    """

    engine: Engine
    shape: BatchShape
    sequences: Iterable[Sequence]
    on_tokens: Callable[[int], None] = lambda _: None
    num_prefills: int = 0
    _waiting: _Waiting = field(default_factory=lambda: _Waiting(()))
    _groups: list[_Group] = field(default_factory=list)
    # Chunks that follow once the one before is through, by micro-batch.
    _chunks: dict[int, deque[Message]] = field(default_factory=dict)
    _in_flight: int = 0

    def run(self) -> Generator[Sequence, None, None]:
        """Yields rows as they end.

        Abandoned half-way, it waits for what is in flight, so that the stages may serve
        others.
        """
        size = self.shape.decode_rows
        self._waiting = _Waiting(self.sequences)
        self._groups = [
            _Group(
                sequences=[None] * size,
                length_B=np.ones(size, np.int32),
                token_B=np.zeros(size, np.int32),
                sampling=greedy_rows(size),
            )
            for _ in range(self.shape.num_groups)
        ]
        try:
            self._fill()
            while self._in_flight:
                # One less either way: what a stage raised comes out of here too.
                self._in_flight -= 1
                try:
                    result = self.engine.next_result()
                except StageFailedError:
                    self._recover()
                else:
                    yield from self._take(result)
        finally:
            while self._in_flight:
                self._in_flight -= 1
                # What a stage raised has been raised already.
                with suppress(BaseException):
                    self.engine.next_result()

    def _fill(self) -> None:
        """Sends the first prompts, in the plan's micro-batches."""
        for slots in self._prefill_slots():
            if not self._waiting:
                break
            self._seat(slots)
            for chunk in self._prompts(slots, self.shape.num_tokens):
                self._send(chunk)

    def _recover(self) -> None:
        """Has a lost stage back, and brings every row to where it was."""
        self._in_flight = 0
        self._chunks.clear()
        self.engine.recover()
        shape = self.shape
        self.engine.allocate(
            num_groups=shape.num_groups,
            num_rows=shape.decode_rows,
            num_slots=shape.num_slots,
        )
        for group in self._groups:
            group.prefills_left = 0
        for slots in self._prefill_slots():
            lengths = [
                len(sequence.history)
                for number, slot in slots
                if (sequence := self._groups[number].sequences[slot])
                and not sequence.is_finished
            ]
            if lengths:
                for chunk in self._prompts(slots, bucket_length(max(lengths))):
                    self._send(chunk)
        for number, group in enumerate(self._groups):
            if not group.prefills_left:
                self._refill(number)

    def _prefill_slots(self) -> Iterator[list[tuple[int, int]]]:
        """Yields the plan's prefill micro-batches: of each row its group and place."""
        shape = self.shape
        together = max(1, shape.prefill_rows // shape.decode_rows)
        for start in range(0, shape.num_rows, shape.prefill_rows):
            first_group, first_row = divmod(start, shape.decode_rows)
            yield [
                (group, slot)
                for group in range(first_group, first_group + together)
                for slot in range(first_row, first_row + shape.prefill_rows // together)
            ]

    def _refill(self, number: int) -> None:
        """Gives the free places of a group to requests that wait."""
        for slot, sequence in enumerate(self._groups[number].sequences):
            if self._waiting and (sequence is None or sequence.is_finished):
                num_tokens = bucket_length(self._waiting.num_tokens)
                self._seat([(number, slot)])
                first, *rest = self._prompts([(number, slot)], num_tokens)
                self._send(first)
                if rest:
                    self._chunks[first.micro_batch] = deque(rest)

    def _seat(self, slots: list[tuple[int, int]]) -> None:
        """Gives places to requests that wait, as far as there are any."""
        for number, slot in slots:
            if not self._waiting:
                break
            sequence = self._waiting.take()
            group = self._groups[number]
            group.sequences[slot] = sequence
            _tell_sampling(group.sampling, slot, sequence)

    def _prompts(self, slots: list[tuple[int, int]], num_tokens: int) -> list[Message]:
        """Returns what is known of the rows in some places as one micro-batch, in chunks."""
        groups = tuple(dict.fromkeys(number for number, _ in slots))
        prompts = np.zeros((len(slots), num_tokens), np.int32)
        lengths = np.ones(len(slots), np.int32)
        for index, (number, slot) in enumerate(slots):
            group = self._groups[number]
            sequence = group.sequences[slot]
            if sequence is None or sequence.is_finished:
                continue
            history = sequence.history
            prompts[index, : len(history)] = history
            lengths[index] = group.length_B[slot] = len(history)
        for number in groups:
            self._groups[number].prefills_left += 1
        micro_batch, self.num_prefills = self.num_prefills, self.num_prefills + 1
        sampling = SamplingRows(
            *(
                np.array(
                    [
                        self._groups[number].sampling[axis][slot]
                        for number, slot in slots
                    ]
                )
                for axis in range(len(SamplingRows._fields))
            )
        )
        num_chunks = self.shape.num_chunks(num_tokens)
        seated = [self._groups[number].sequences[slot] for number, slot in slots]
        return [
            Message(
                phase="prefill",
                micro_batch=micro_batch,
                step=step,
                groups=groups,
                first_row=slots[0][1],
                payload=chunk,
                slot_B=lengths,
                sampling=sampling,
                wanted=_wanted(sequence for sequence in seated if sequence is not None),
                num_chunks=num_chunks,
                chunk_tokens=num_tokens // num_chunks,
            )
            for step, chunk in enumerate(np.split(prompts, num_chunks, axis=1))
        ]

    def _take(self, result: Message) -> Iterator[Sequence]:
        """Gives tokens to their rows, and sends groups that are ready on."""
        ended = list(self._take_tokens(result))
        if result.phase == "prefill" and result.step + 1 < result.num_chunks:
            if rest := self._chunks.get(result.micro_batch):
                self._send(rest.popleft())
                if not rest:
                    del self._chunks[result.micro_batch]
            yield from ended
            return
        for number in result.groups:
            group = self._groups[number]
            if result.phase == "prefill":
                group.prefills_left -= 1
                if group.prefills_left:
                    continue
            if self._waiting:
                self._refill(number)
            if not group.prefills_left and group.active:
                self._decode(number, result)
        yield from ended

    def _take_tokens(self, result: Message) -> Iterator[Sequence]:
        payload = np.asarray(result.payload)
        logprobs = unpack_logprobs(payload) if result.wanted == "logprobs" else None
        steps = (payload if logprobs is None else logprobs.token_B)[None]
        if result.tokens is not None:
            steps = np.asarray(result.tokens)[: result.num_steps]
        taken = 0
        for index, (group, slot) in enumerate(self._slots(result)):
            sequence = group.sequences[slot]
            if result.phase == "prefill" and not result.ends_prompt(index):
                continue
            group.token_B[slot] = steps[-1, index]
            if result.phase == "decode":
                group.length_B[slot] += len(steps)
            if sequence is None or sequence.is_finished:
                continue
            if logprobs is not None and sequence.request.top_logprobs is not None:
                sequence.logprobs.append(_token_logprobs(logprobs, index, sequence))
            for token in steps[:, index]:
                sequence.add(int(token))
                taken += 1
                if sequence.is_finished:
                    yield sequence
                    break
        self.on_tokens(taken)

    def _slots(self, message: Message) -> list[tuple[_Group, int]]:
        """Returns whose each of a message's rows are."""
        per_group = len(message.slot_B) // len(message.groups)
        return [
            (self._groups[number], message.first_row + index)
            for number in message.groups
            for index in range(per_group)
        ]

    def _decode(self, number: int, previous: Message) -> None:
        """Sends the next token, or the next few, of a group's rows."""
        group = self._groups[number]
        last_slot = self.shape.num_slots - 1
        num_steps = self._num_steps(group)
        # Tokens of a decode step go back to the first stage without a stop on the host.
        is_after_decode = previous.phase == "decode" and previous.wanted == "tokens"
        self._send(
            Message(
                phase="decode",
                micro_batch=number,
                step=group.num_steps + 1,
                groups=(number,),
                first_row=0,
                payload=previous.payload if is_after_decode else group.token_B.copy(),
                # A row's last token sits right behind what the caches hold of it.
                slot_B=np.minimum(group.length_B, last_slot),
                sampling=group.sampling,
                wanted=_wanted(group.active),
                num_steps=num_steps,
            )
        )
        group.num_steps += num_steps

    def _num_steps(self, group: _Group) -> int:
        """Returns how many steps go without a stop.

        As many as the longest row still wants, or while others wait for a place, the
        shortest.
        """
        if not self.engine.takes_steps or _wanted(group.active) != "tokens":
            return 1
        left = [sequence.num_left for sequence in group.active]
        return min(STEPS_AT_ONCE, min(left) if self._waiting else max(left))

    def _send(self, message: Message) -> None:
        self.engine.submit(message)
        self._in_flight += 1


def _wanted(sequences: Iterable[Sequence]) -> Wanted:
    """Returns what the last stage is to tell of a micro-batch of rows."""
    asks = any(sequence.request.top_logprobs is not None for sequence in sequences)
    return "logprobs" if asks else "tokens"


def _token_logprobs(
    logprobs: Logprobs, index: int, sequence: Sequence
) -> TokenLogprobs:
    count = sequence.request.top_logprobs or 0
    return TokenLogprobs(
        logprob=float(logprobs.logprob_B[index]),
        top_tokens=tuple(
            (int(token), float(logprob))
            for token, logprob in zip(
                logprobs.top_token_BK[index, :count],
                logprobs.top_logprob_BK[index, :count],
                strict=True,
            )
        ),
    )


def _tell_sampling(sampling: SamplingRows, slot: int, sequence: Sequence) -> None:
    """Writes how a row is sampled into its place."""
    choice = sequence.request.sampling
    values = (choice.temperature, choice.top_k, choice.top_p, choice.seed)
    for axis, value in zip(sampling, values, strict=True):
        np.asarray(axis)[slot] = value
