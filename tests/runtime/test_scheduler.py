"""The scheduler against an engine that remembers all tokens of each row.

The engine's model is a hash of a row's whole history, so any token in a wrong row, position
or step changes every later one.
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
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL
from llmpq_jax.schema.workload import MicroBatch
from llmpq_jax.stage.message import Message, NotFinite
from llmpq_jax.stage.sampling import NOT_FINITE

EOS = 5


# The logits of a request with a larger seed are not finite now and then.
MAX_FINITE_SEED = 100


def next_token(history: list[int], seed: int) -> int:
    token = hash((*history, seed)) % 17
    return NOT_FINITE if seed > MAX_FINITE_SEED and token < 3 else token


def served_alone(request: Request) -> list[int]:
    history, made = list(request.token_ids), []
    while len(made) < request.max_new_tokens:
        token = next_token(history, request.sampling.seed)
        if token == NOT_FINITE:
            break
        made.append(token)
        history.append(made[-1])
        if made[-1] == EOS and not request.ignores_eos:
            break
    return made


class NoText:
    """A text decoder that returns no text."""

    def add(self, token_id: int) -> str:
        return ""

    def rest(self) -> str:
        return ""

    def special_text(self, token_id: int) -> str:
        return ""


@dataclass
class HashEngine:
    """Returns results in any order, but those of a group in their own order."""

    random: Random
    shape: BatchShape
    supports_multi_step: bool
    fails_at: int = -1
    fails_stage_at: tuple[int, ...] = ()
    num_recovered: int = 0
    num_answered: int = 0
    num_steps: int = 0
    waiting: list[Message] = field(default_factory=list)
    caches: dict[int, list[list[int]]] = field(default_factory=dict)

    def recover(self, failure: StageFailedError) -> None:
        del failure
        assert not self.waiting, "a failed engine has nothing in flight"
        self.num_recovered += 1
        self.caches.clear()

    def allocate(self, **_: int) -> None:
        assert not self.waiting, "caches that are in use stay"
        self.caches.clear()

    def submit(self, message: Message) -> None:
        if message.phase == "decode":
            assert not any(
                set(other.groups) & set(message.groups) for other in self.waiting
            )
        self.waiting.append(message)

    def _next(self) -> Message:
        """Removes any message, but the chunks of a micro-batch in their order."""
        message = self.random.choice(self.waiting)
        if message.phase == "prefill":
            same_prompts = [
                other
                for other in self.waiting
                if other.phase == "prefill" and other.micro_batch == message.micro_batch
            ]
            message = min(same_prompts, key=lambda other: other.step)
        self.waiting.remove(message)
        return message

    def next_result(self) -> Message:
        message = self._next()
        self.num_answered += 1
        if self.num_answered in self.fails_stage_at:
            self.waiting.clear()
            msg = "stage 1 failed"
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
                    next_token(sequences[slot], int(message.sampling.seed_low_B[index]))
                )
            steps.append(np.array(tokens, np.int32))
        if message.checks_finite and steps[-1][0] == NOT_FINITE:
            message = replace(message, not_finite=NotFinite(1, 2))
        self.num_steps += message.num_steps
        if not self.supports_multi_step:
            return replace(message, payload=steps[-1])
        filler = [steps[-1]] * (MAX_STEPS_PER_CALL - len(steps))
        is_decode = message.phase == "decode"
        tokens = np.array(steps + filler) if is_decode else None
        return replace(message, payload=steps[-1], tokens=tokens)


@st.composite
def services(draw: st.DrawFn) -> tuple[HashEngine, list[Request]]:
    """An engine, and requests of unequal lengths, more or fewer than there are slots."""
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
    engine = HashEngine(random, shape, supports_multi_step=draw(st.booleans()))
    return engine, requests


def _scheduler(engine: HashEngine, requests: list[Request], **options) -> Scheduler:
    sequences = [
        Sequence(request, eos_ids={EOS}, decoder=NoText()) for request in requests
    ]
    return Scheduler(engine=engine, shape=engine.shape, sequences=sequences, **options)  # pyright: ignore[reportArgumentType]


@given(services())
def test_every_request_gets_the_tokens_it_would_get_alone(service):
    engine, requests = service
    reported: list[int] = []
    scheduler = _scheduler(engine, requests, on_tokens=reported.append)
    finished = list(scheduler.run())
    assert {id(sequence) for sequence in finished} == {
        id(sequence) for sequence in scheduler.sequences
    }
    assert len(finished) == len(requests)
    for sequence, request in zip(scheduler.sequences, requests, strict=True):
        assert sequence.token_ids == served_alone(request)
    assert sum(reported) == sum(
        len(sequence.token_ids) for sequence in scheduler.sequences
    )
    assert not engine.waiting


@given(services(), st.integers(1, 30))
def test_an_exception_of_a_stage_is_raised_and_nothing_stays_in_flight(
    service, fails_at
):
    engine, requests = service
    engine.fails_at = fails_at
    scheduler = _scheduler(engine, requests)
    with suppress(RuntimeError):
        list(scheduler.run())
        assert engine.num_answered < fails_at, "the exception was raised"
    assert not engine.waiting


@given(services(), st.sets(st.integers(1, 40), min_size=1, max_size=3))
def test_tokens_are_the_same_whenever_stages_fail(service, fails_stage_at):
    engine, requests = service
    engine.fails_stage_at = tuple(fails_stage_at)
    reported: list[int] = []
    scheduler = _scheduler(engine, requests, on_tokens=reported.append)
    finished = list(scheduler.run())
    assert engine.num_recovered == sum(
        at <= engine.num_answered for at in fails_stage_at
    )
    assert sorted(map(id, finished)) == sorted(map(id, scheduler.sequences))
    for sequence, request in zip(scheduler.sequences, requests, strict=True):
        assert sequence.token_ids == served_alone(request)
    assert sum(reported) == sum(
        len(sequence.token_ids) for sequence in scheduler.sequences
    )


@given(
    services(),
    st.sets(st.integers(0, 11), min_size=1),
    st.sets(st.integers(1, 40), max_size=2),
)
def test_a_request_whose_logits_are_not_finite_fails_alone(
    service, failing, fails_stage_at
):
    engine, requests = service
    engine.fails_stage_at = tuple(fails_stage_at)
    requests = [
        replace(request, sampling=Sampling(seed=MAX_FINITE_SEED + 1 + number))
        if number in failing
        else request
        for number, request in enumerate(requests)
    ]
    reported: list[int] = []
    scheduler = _scheduler(engine, requests, on_tokens=reported.append)
    finished = list(scheduler.run())
    assert sorted(map(id, finished)) == sorted(map(id, scheduler.sequences))
    for sequence, request in zip(scheduler.sequences, requests, strict=True):
        expected = served_alone(request)
        assert sequence.token_ids == expected
        has_ended = expected[-1:] == [EOS] and not request.ignores_eos
        is_failed = not has_ended and len(expected) < request.max_new_tokens
        assert (sequence.finish_reason == "error") == is_failed
        if is_failed and not fails_stage_at:
            assert sequence.not_finite == NotFinite(1, 2)
    assert sum(reported) == sum(len(each.token_ids) for each in scheduler.sequences)
    assert not engine.waiting


@given(services())
def test_a_run_that_is_stopped_early_leaves_nothing_in_flight(service):
    engine, requests = service
    run = _scheduler(engine, requests).run()
    next(run)
    run.close()
    assert not engine.waiting


@pytest.mark.parametrize("supports_multi_step", [False, True])
def test_a_free_slot_is_filled_at_once(supports_multi_step):
    """One long request and eight short ones in two slots take as long as the long one."""
    requests = [
        Request(token_ids=(index,), max_new_tokens=count, ignores_eos=True)
        for index, count in enumerate([40, *[5] * 8])
    ]
    shape = BatchShape.of(MicroBatch(prefill=2, decode=2), 2, [1] * 9, [41, *[6] * 8])
    engine = HashEngine(Random(0), shape, supports_multi_step=supports_multi_step)
    list(_scheduler(engine, requests).run())
    prefills = 1 + 7
    assert engine.num_steps == prefills + 39


def test_other_groups_decode_between_the_chunks_of_a_later_prompt():
    """Two slots; the short request ends first, and a prompt of four chunks gets its slot."""
    requests = [
        Request(token_ids=(index,) * length, max_new_tokens=count, ignores_eos=True)
        for index, (length, count) in enumerate([(3, 30), (3, 2), (60, 1)])
    ]
    micro_batch = MicroBatch(prefill=1, decode=1, chunk_tokens=16)
    shape = BatchShape.of(micro_batch, 2, [3, 3, 60], [33, 5, 61])
    engine = FirstComeEngine(Random(0), shape, supports_multi_step=False)
    list(_scheduler(engine, requests).run())
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
    """Returns results in the order of their messages, as a pipeline does, and keeps them."""

    answered: list[Message] = field(default_factory=list)

    def _next(self) -> Message:
        self.answered.append(self.waiting.pop(0))
        return self.answered[-1]
