"""The scheduler of requests at any time against an engine that remembers what was written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.inbox import Inbox
from llmpq_jax.runtime.online_scheduler import OnlineScheduler
from llmpq_jax.runtime.request import PartialCompletion, Request, Sampling
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.stage.message import Message, NotFinite
from tests.support.hash_engine import (
    EOS,
    MAX_FINITE_SEED,
    FirstComeEngine,
    HashEngine,
    NoText,
    served_alone,
)

NUM_SLOTS = 96
Event = Callable[[], object]


class ScriptedInbox(Inbox):
    """An inbox to which events come after a number of results, or when nothing else is to do."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self._events = deque(events)

    def next_event(self) -> None:
        if self._events:
            self._events.popleft()()

    def wait(self, timeout_s: float) -> None:
        del timeout_s
        if self._events:
            self.next_event()
        else:
            self.close()


class ServedEngine(HashEngine):
    """Lets an event come after some of its results."""

    inbox: ScriptedInbox

    def next_result(self):
        if self.random.random() < 0.3:
            self.inbox.next_event()
        return super().next_result()


class RefusingEngine(ServedEngine):
    """Takes one message and no other."""

    num_submitted = 0

    def submit(self, message: Message) -> None:
        if self.num_submitted:
            msg = "refused"
            raise OSError(msg)
        self.num_submitted += 1
        super().submit(message)


def _sequence(request: Request) -> Sequence:
    return Sequence(request, eos_ids={EOS}, decoder=NoText())


def _scheduler(engine: HashEngine, inbox: Inbox, **options) -> OnlineScheduler:
    return OnlineScheduler(
        engine=engine,  # pyright: ignore[reportArgumentType]
        shape=engine.shape,
        inbox=inbox,
        head_inputs=HeadInputs(vocabulary_size=17, num_slots=NUM_SLOTS),
        **options,
    )


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Requests of which some continue what others begin with."""
    generator = Random(draw(st.integers(0, 2**32)))
    made: list[Request] = []
    for _ in range(draw(st.integers(1, 14))):
        length = generator.randint(1, 70)
        token_ids = tuple(generator.randrange(10) for _ in range(length))
        if made and generator.random() < 0.6:
            before = generator.choice(made)
            known = (*before.token_ids, *served_alone(before))
            token_ids = (*known[: generator.randint(1, len(known))], *token_ids)[:80]
        request = Request(
            token_ids=token_ids,
            max_new_tokens=generator.randint(1, NUM_SLOTS - len(token_ids)),
            ignores_eos=generator.random() < 0.5,
            sampling=Sampling(seed=generator.randrange(9)),
        )
        if generator.random() < 0.1 and len(alone := served_alone(request)) > 1:
            partial = tuple(alone[: generator.randint(1, len(alone) - 1)])
            request = replace(request, partial=PartialCompletion(token_ids=partial))
        made.append(request)
    return made


@st.composite
def engines(draw: st.DrawFn) -> ServedEngine:
    shape = BatchShape(
        num_groups=draw(st.integers(1, 3)),
        prefill_rows=1,
        decode_rows=draw(st.sampled_from([1, 2, 3])),
        num_tokens=NUM_SLOTS,
        num_slots=NUM_SLOTS,
        chunk_tokens=draw(st.sampled_from([16, 32, 512])),
    )
    random = Random(draw(st.integers(0, 2**32)))
    return ServedEngine(random, shape, supports_multi_step=draw(st.booleans()))


def _serve(
    engine: ServedEngine, sequences: list[Sequence], cancelled: set[int]
) -> tuple[OnlineScheduler, list[Sequence]]:
    """Serves sequences, of which some are cancelled, at any moments; returns what ended."""
    inbox = ScriptedInbox([])
    events: list[Event] = []
    for number, sequence in enumerate(sequences):
        events.append(lambda sequence=sequence: inbox.add(sequence))
        if number in cancelled:
            place = engine.random.randint(len(events), len(sequences) + len(events))
            events.insert(place, lambda sequence=sequence: inbox.cancel(sequence))
    inbox = engine.inbox = ScriptedInbox(events)
    ended: list[Sequence] = []
    scheduler = _scheduler(
        engine,
        inbox,
        on_progress=lambda each: ended.append(each) if each.is_finished else None,
    )
    ended += [each for each in scheduler.run() if each not in ended]
    assert not engine.waiting
    assert scheduler.counters.num_running == scheduler.counters.num_waiting == 0
    return scheduler, ended


@given(engines(), requests(), st.sets(st.integers(0, 13), max_size=4))
def test_every_request_gets_the_tokens_it_would_get_alone(
    engine: ServedEngine, asked: list[Request], cancelled: set[int]
) -> None:
    sequences = [_sequence(request) for request in asked]
    _, ended = _serve(engine, sequences, cancelled)
    assert {id(each) for each in ended} == {id(each) for each in sequences}
    for number, sequence in enumerate(sequences):
        alone = served_alone(replace(sequence.request, partial=PartialCompletion()))
        if sequence.finish_reason == "cancelled":
            assert number in cancelled
            alone = alone[: len(sequence.token_ids)]
        assert sequence.token_ids == alone


@given(engines(), requests(), st.sets(st.integers(1, 60), min_size=1, max_size=3))
def test_tokens_are_the_same_whenever_stages_fail(
    engine: ServedEngine, asked: list[Request], fails_stage_at: set[int]
) -> None:
    engine.fails_stage_at = tuple(fails_stage_at)
    sequences = [_sequence(request) for request in asked]
    _serve(engine, sequences, set())
    assert engine.num_recovered == sum(
        at <= engine.num_answered for at in fails_stage_at
    )
    for sequence in sequences:
        request = replace(sequence.request, partial=PartialCompletion())
        assert sequence.token_ids == served_alone(request)


@given(engines(), requests(), st.sets(st.integers(0, 13), min_size=1, max_size=3))
def test_a_request_whose_logits_are_not_finite_fails_alone(
    engine: ServedEngine, asked: list[Request], failing: set[int]
) -> None:
    asked = [
        replace(
            request,
            sampling=Sampling(seed=MAX_FINITE_SEED + 1 + number),
            partial=PartialCompletion(),
        )
        if number in failing
        else request
        for number, request in enumerate(asked)
    ]
    sequences = [_sequence(request) for request in asked]
    _, ended = _serve(engine, sequences, set())
    assert len(ended) == len(sequences)
    for sequence in sequences:
        request = replace(sequence.request, partial=PartialCompletion())
        expected = served_alone(request)
        assert sequence.token_ids == expected
        has_ended = expected[-1:] == [EOS] and not request.ignores_eos
        is_failed = not has_ended and len(expected) < request.max_new_tokens
        assert (sequence.finish_reason == "error") == is_failed
        if is_failed:
            assert sequence.not_finite == NotFinite(1, 2)


def _first_come(num_rows: int, **options: int) -> tuple[FirstComeEngine, ScriptedInbox]:
    shape = BatchShape(
        num_groups=1,
        prefill_rows=1,
        decode_rows=num_rows,
        num_tokens=NUM_SLOTS,
        num_slots=NUM_SLOTS,
        chunk_tokens=options.get("chunk_tokens", 512),
    )
    engine = FirstComeEngine(Random(0), shape, supports_multi_step=False)
    return engine, ScriptedInbox([])


def test_other_rows_decode_between_the_chunks_of_a_prompt() -> None:
    engine, inbox = _first_come(2, chunk_tokens=16)
    for length, count in ((3, 20), (64, 2)):
        request = Request(
            token_ids=tuple(range(length)), max_new_tokens=count, ignores_eos=True
        )
        inbox.add(_sequence(request))
    list(_scheduler(engine, inbox).run())
    phases = [message.phase for message in engine.answered]
    # One chunk of the first prompt, and four of the second.
    assert phases[:9] == ["prefill", *["decode", "prefill"] * 4]


def test_the_next_turn_computes_its_new_tokens_alone() -> None:
    engine, inbox = _first_come(2)
    first = _sequence(
        Request(token_ids=tuple(range(50)), max_new_tokens=8, ignores_eos=True)
    )

    def go_on() -> None:
        turn = (*first.history, 1, 2, 3)
        inbox.add(
            _sequence(Request(token_ids=turn, max_new_tokens=4, ignores_eos=True))
        )

    inbox = ScriptedInbox([lambda: inbox.add(first), go_on])
    scheduler = _scheduler(engine, inbox)
    list(scheduler.run())
    prefills = [
        (message.first_position, np.asarray(message.payload).shape[1])
        for message in engine.answered
        if message.phase == "prefill"
    ]
    # All but the last token of the first turn are held; the rest are four.
    assert prefills == [(None, 32), (32, 32), (57, 32)]
    assert scheduler.counters.num_cached_tokens == 57


def test_a_slot_that_is_freed_before_its_start_is_restored_is_not_trusted() -> None:
    """Decode steps overwrite the start of a free row; a cancelled prompt leaves it so."""
    engine, inbox = _first_come(3, chunk_tokens=16)
    prompt = tuple(range(10)) * 5
    turn = (*prompt, 1, 2, 3)
    first, other, long, cancelled, last = map(
        _sequence,
        (
            Request(token_ids=prompt, max_new_tokens=2, ignores_eos=True),
            Request(token_ids=(3, 4), max_new_tokens=60, ignores_eos=True),
            Request(token_ids=(7,) * 64, max_new_tokens=2, ignores_eos=True),
            Request(token_ids=turn, max_new_tokens=2),
            Request(token_ids=turn, max_new_tokens=9, ignores_eos=True),
        ),
    )
    events: dict[int, Event] = {
        0: lambda: (inbox.add(first), inbox.add(other)),
        # The long prompt's chunks come before the one that restores the start.
        20: lambda: (inbox.add(long), inbox.add(cancelled)),
        # At once, so that no decode step comes between.
        22: lambda: (inbox.cancel(cancelled), inbox.add(last)),
    }

    class Steps(ScriptedInbox):
        """Lets an event come after a number of results."""

        def take(self):
            events.pop(len(engine.answered), lambda: None)()
            return super().take()

    inbox = Steps([])
    scheduler = _scheduler(engine, inbox)
    list(scheduler.run())
    assert not events
    assert cancelled.finish_reason == "cancelled"
    assert scheduler.counters.num_cached_tokens == 2 * len(prompt)
    for sequence in (first, other, long, last):
        assert sequence.token_ids == served_alone(sequence.request)


def test_what_ended_is_reported_though_the_next_step_cannot_be_sent():
    shape = BatchShape(
        num_groups=1,
        prefill_rows=1,
        decode_rows=2,
        num_tokens=NUM_SLOTS,
        num_slots=NUM_SLOTS,
        chunk_tokens=32,
    )
    engine = RefusingEngine(Random(0), shape, supports_multi_step=True)
    inbox = engine.inbox = ScriptedInbox([])
    ended, other = (
        _sequence(Request(token_ids=(1, 2), max_new_tokens=count)) for count in (1, 9)
    )
    inbox.add(ended)
    inbox.add(other)
    reported: list[Sequence] = []
    with pytest.raises(OSError, match="refused"):
        list(_scheduler(engine, inbox, on_progress=reported.append).run())
    assert reported == [ended]
    assert ended.is_finished
