"""The scheduler of batches against an engine that remembers what was written where."""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.runtime.batch_scheduler import BatchScheduler
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.request import Request, Sampling
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.schema.workload import MicroBatch
from llmpq_jax.stage.message import NotFinite
from tests.support.hash_engine import (
    EOS,
    MAX_FINITE_SEED,
    FirstComeEngine,
    HashEngine,
    NoText,
    served_alone,
)


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


def _scheduler(
    engine: HashEngine, requests: list[Request], **options
) -> tuple[BatchScheduler, list[Sequence]]:
    sequences = [
        Sequence(request, eos_ids={EOS}, decoder=NoText()) for request in requests
    ]
    scheduler = BatchScheduler(
        engine=engine,  # pyright: ignore[reportArgumentType]
        shape=engine.shape,
        sequences=sequences,
        head_inputs=HeadInputs(vocabulary_size=17, num_slots=engine.shape.num_slots),
        **options,
    )
    return scheduler, sequences


@given(services())
def test_every_request_gets_the_tokens_it_would_get_alone(service):
    engine, requests = service
    reported: list[int] = []
    scheduler, sequences = _scheduler(engine, requests, on_tokens=reported.append)
    finished = list(scheduler.run())
    assert {id(sequence) for sequence in finished} == {
        id(sequence) for sequence in sequences
    }
    assert len(finished) == len(requests)
    for sequence, request in zip(sequences, requests, strict=True):
        assert sequence.token_ids == served_alone(request)
    assert sum(reported) == sum(len(sequence.token_ids) for sequence in sequences)
    assert not engine.waiting


@given(services(), st.integers(1, 30))
def test_an_exception_of_a_stage_is_raised_and_nothing_stays_in_flight(
    service, fails_at
):
    engine, requests = service
    engine.fails_at = fails_at
    scheduler, _ = _scheduler(engine, requests)
    with suppress(RuntimeError):
        list(scheduler.run())
        assert engine.num_answered < fails_at, "the exception was raised"
    assert not engine.waiting


@given(services(), st.sets(st.integers(1, 40), min_size=1, max_size=3))
def test_tokens_are_the_same_whenever_stages_fail(service, fails_stage_at):
    engine, requests = service
    engine.fails_stage_at = tuple(fails_stage_at)
    reported: list[int] = []
    scheduler, sequences = _scheduler(engine, requests, on_tokens=reported.append)
    finished = list(scheduler.run())
    assert engine.num_recovered == sum(
        at <= engine.num_answered for at in fails_stage_at
    )
    assert sorted(map(id, finished)) == sorted(map(id, sequences))
    for sequence, request in zip(sequences, requests, strict=True):
        assert sequence.token_ids == served_alone(request)
    assert sum(reported) == sum(len(sequence.token_ids) for sequence in sequences)


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
    scheduler, sequences = _scheduler(engine, requests, on_tokens=reported.append)
    finished = list(scheduler.run())
    assert sorted(map(id, finished)) == sorted(map(id, sequences))
    for sequence, request in zip(sequences, requests, strict=True):
        expected = served_alone(request)
        assert sequence.token_ids == expected
        has_ended = expected[-1:] == [EOS] and not request.ignores_eos
        is_failed = not has_ended and len(expected) < request.max_new_tokens
        assert (sequence.finish_reason == "error") == is_failed
        if is_failed and not fails_stage_at:
            assert sequence.not_finite == NotFinite(1, 2)
    assert sum(reported) == sum(len(each.token_ids) for each in sequences)
    assert not engine.waiting


@given(services())
def test_a_run_that_is_stopped_early_leaves_nothing_in_flight(service):
    engine, requests = service
    run = _scheduler(engine, requests)[0].run()
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
    list(_scheduler(engine, requests)[0].run())
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
    list(_scheduler(engine, requests)[0].run())
    kinds = [
        (message.phase, message.groups[0], message.num_chunks)
        for message in engine.answered
    ]
    chunks = [index for index, kind in enumerate(kinds) if kind == ("prefill", 1, 4)]
    assert len(chunks) == 4
    for before, after in itertools.pairwise(chunks):
        assert ("decode", 0, 1) in kinds[before:after]
