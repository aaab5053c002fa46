"""The driver against an engine that remembers every token it was shown.

The engine's model is a hash of a row's whole history, so any token that goes to a wrong
place, position or step changes every later one.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.engines.engine import StageFailedError
from llmpq_jax.runtime.request import Request, Sampling
from llmpq_jax.runtime.scheduler import Scheduler
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.schema.buckets import STEPS_AT_ONCE
from llmpq_jax.schema.workload import MicroBatch
from llmpq_jax.stage.message import Message

EOS = 5


def next_token(history: list[int], seed: int) -> int:
    return hash((*history, seed)) % 17


def served_alone(request: Request) -> list[int]:
    history, made = list(request.token_ids), []
    while len(made) < request.max_new_tokens:
        made.append(next_token(history, request.sampling.seed))
        history.append(made[-1])
        if made[-1] == EOS and not request.ignores_eos:
            break
    return made


class Silent:
    """A text decoder that says nothing."""

    def add(self, token_id: int) -> str:
        return ""

    def rest(self) -> str:
        return ""


@dataclass
class HashEngine:
    """Answers messages in any order, those of a group in their own."""

    random: Random
    shape: BatchShape
    takes_steps: bool
    fails_at: int = -1
    is_lost_at: tuple[int, ...] = ()
    num_recovered: int = 0
    num_answered: int = 0
    num_steps: int = 0
    waiting: list[Message] = field(default_factory=list)
    caches: dict[int, list[list[int]]] = field(default_factory=dict)

    def recover(self) -> None:
        assert not self.waiting, "a lost engine takes nothing"
        self.num_recovered += 1
        self.caches.clear()

    def allocate(self, **_: int) -> None:
        assert not self.caches

    def submit(self, message: Message) -> None:
        if message.phase == "decode":
            assert not any(
                set(other.groups) & set(message.groups) for other in self.waiting
            )
        self.waiting.append(message)

    def _next(self) -> Message:
        """Takes any message, but the chunks of a micro-batch in their order."""
        message = self.random.choice(self.waiting)
        if message.phase == "prefill":
            of_it = [
                other
                for other in self.waiting
                if other.phase == "prefill" and other.micro_batch == message.micro_batch
            ]
            message = min(of_it, key=lambda other: other.step)
        self.waiting.remove(message)
        return message

    def next_result(self) -> Message:
        message = self._next()
        self.num_answered += 1
        if self.num_answered in self.is_lost_at:
            self.waiting.clear()
            msg = "stage 1 is lost"
            raise StageFailedError(msg)
        if self.num_answered == self.fails_at:
            msg = "stage broke"
            raise RuntimeError(msg)
        slots = [
            (group, message.first_row + index)
            for group in message.groups
            for index in range(len(message.slot_B) // len(message.groups))
        ]
        steps = []
        for step in range(message.num_steps):
            tokens = []
            for index, (group, slot) in enumerate(slots):
                sequences = self.caches.setdefault(
                    group, [[] for _ in range(self.shape.decode_rows)]
                )
                given, at = np.asarray(message.payload)[index], message.slot_B[index]
                if message.phase == "prefill":
                    first = message.first_position or 0
                    assert first + len(given) <= self.shape.num_slots
                    assert message.num_chunks > 1 or at <= len(given)
                    known = sequences[slot][:first] if first else []
                    sequences[slot] = [*known, *given[: max(0, at - first)].tolist()]
                else:
                    position = min(at + step, self.shape.num_slots - 1)
                    fed = given if step == 0 else steps[-1][index]
                    sequences[slot] = [*sequences[slot][:position], int(fed)]
                tokens.append(
                    next_token(sequences[slot], int(message.sampling.seed_B[index]))
                )
            steps.append(np.array(tokens, np.int32))
        self.num_steps += message.num_steps
        if not self.takes_steps:
            return replace(message, payload=steps[-1])
        filler = [steps[-1]] * (STEPS_AT_ONCE - len(steps))
        is_decode = message.phase == "decode"
        tokens = np.array(steps + filler) if is_decode else None
        return replace(message, payload=steps[-1], tokens=tokens)


@st.composite
def services(draw: st.DrawFn) -> tuple[HashEngine, list[Request]]:
    """An engine, and requests of unequal lengths, more than fit or fewer."""
    decode = draw(st.sampled_from([1, 2, 4]))
    prefill = draw(st.sampled_from([1, 2, 4]))
    batch = draw(st.integers(1, 9))
    requests = [
        Request(
            token_ids=tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=70))),
            max_new_tokens=draw(st.integers(1, 20)),
            ignores_eos=draw(st.booleans()),
            sampling=Sampling(seed=draw(st.integers(0, 9))),
        )
        for _ in range(draw(st.integers(1, 12)))
    ]
    shape = BatchShape.of(
        MicroBatch(
            prefill=prefill,
            decode=decode,
            chunk_tokens=draw(st.sampled_from([16, 32, 512])),
        ),
        batch,
        [len(request.token_ids) for request in requests],
        [len(request.token_ids) + request.max_new_tokens for request in requests],
    )
    random = Random(draw(st.integers(0, 2**32)))
    engine = HashEngine(random, shape, takes_steps=draw(st.booleans()))
    return engine, requests


def _drive(engine: HashEngine, requests: list[Request], **options) -> Scheduler:
    sequences = [
        Sequence(request, eos_ids={EOS}, decoder=Silent()) for request in requests
    ]
    return Scheduler(engine=engine, shape=engine.shape, sequences=sequences, **options)  # pyright: ignore[reportArgumentType]


@given(services())
def test_every_request_gets_the_tokens_it_would_get_alone(service):
    engine, requests = service
    told: list[int] = []
    driver = _drive(engine, requests, on_tokens=told.append)
    ended = list(driver.run())
    assert {id(sequence) for sequence in ended} == {
        id(sequence) for sequence in driver.sequences
    }
    assert len(ended) == len(requests)
    for sequence, request in zip(driver.sequences, requests, strict=True):
        assert sequence.token_ids == served_alone(request)
    assert sum(told) == sum(len(sequence.token_ids) for sequence in driver.sequences)
    assert not engine.waiting


@given(services(), st.integers(1, 30))
def test_what_a_stage_raises_comes_out_and_nothing_stays_in_flight(service, fails_at):
    engine, requests = service
    engine.fails_at = fails_at
    driver = _drive(engine, requests)
    with suppress(RuntimeError):
        list(driver.run())
        assert engine.num_answered < fails_at, "what was raised came out"
    assert not engine.waiting


@given(services(), st.sets(st.integers(1, 40), min_size=1, max_size=3))
def test_tokens_are_the_same_whenever_stages_are_lost(service, is_lost_at):
    engine, requests = service
    engine.is_lost_at = tuple(is_lost_at)
    told: list[int] = []
    driver = _drive(engine, requests, on_tokens=told.append)
    ended = list(driver.run())
    assert engine.num_recovered == sum(at <= engine.num_answered for at in is_lost_at)
    assert sorted(map(id, ended)) == sorted(map(id, driver.sequences))
    for sequence, request in zip(driver.sequences, requests, strict=True):
        assert sequence.token_ids == served_alone(request)
    assert sum(told) == sum(len(sequence.token_ids) for sequence in driver.sequences)


@given(services())
def test_a_run_that_is_abandoned_leaves_nothing_in_flight(service):
    engine, requests = service
    run = _drive(engine, requests).run()
    next(run)
    run.close()
    assert not engine.waiting


@pytest.mark.parametrize("takes_steps", [False, True])
def test_a_place_that_falls_free_is_taken_at_once(takes_steps):
    """One long row and eight short ones in two places take as long as the long one."""
    requests = [
        Request(token_ids=(index,), max_new_tokens=count, ignores_eos=True)
        for index, count in enumerate([40, *[5] * 8])
    ]
    shape = BatchShape.of(MicroBatch(prefill=2, decode=2), 2, [1] * 9, [41, *[6] * 8])
    engine = HashEngine(Random(0), shape, takes_steps=takes_steps)
    list(_drive(engine, requests).run())
    prefills = 1 + 7
    assert engine.num_steps == prefills + 39


def test_a_long_prompt_that_comes_later_lets_others_decode_between_its_chunks():
    """Two places; the short row ends first, and a prompt of four chunks takes its place."""
    requests = [
        Request(token_ids=(index,) * length, max_new_tokens=count, ignores_eos=True)
        for index, (length, count) in enumerate([(3, 30), (3, 2), (60, 1)])
    ]
    micro_batch = MicroBatch(prefill=1, decode=1, chunk_tokens=16)
    shape = BatchShape.of(micro_batch, 2, [3, 3, 60], [33, 5, 61])
    engine = FirstComeEngine(Random(0), shape, takes_steps=False)
    list(_drive(engine, requests).run())
    kinds = [
        (message.phase, message.groups[0], message.num_chunks)
        for message in engine.answered
    ]
    chunks = [index for index, kind in enumerate(kinds) if kind == ("prefill", 1, 4)]
    assert len(chunks) == 4
    for before, after in itertools.pairwise(chunks):
        assert ("decode", 0, 1) in kinds[before:after]


@dataclass
class FirstComeEngine(HashEngine):
    """Answers messages in the order they came, as a pipeline does, and keeps them."""

    answered: list[Message] = field(default_factory=list)

    def _next(self) -> Message:
        self.answered.append(self.waiting.pop(0))
        return self.answered[-1]
