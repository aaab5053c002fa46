"""A stage's actor without Ray: neighbours are mailboxes, the worker adds one."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmpq_jax.runtime.engines.ray.actor import StageActor
from llmpq_jax.runtime.engines.transport.endpoint import ActorCalls
from llmpq_jax.runtime.engines.transport.serialized import SerializedMessage, pack
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.worker import StageWorker


class Mailbox:
    """Takes parcels as the handle of another actor does."""

    def __init__(self) -> None:
        self.parcels: queue.SimpleQueue[SerializedMessage] = queue.SimpleQueue()
        self.receive = SimpleNamespace(remote=self.parcels.put)


class AddsOne(StageWorker):
    """A worker whose results may be held back."""

    placement: Any = SimpleNamespace(put=np.asarray)

    def __init__(self) -> None:
        self.stage = 0
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def note_arrival(self, message: Message) -> None:
        pass

    def process(self, message: Message, received_s: float) -> Message:
        self.began.set()
        assert self.may_end.wait(60)
        return replace(message, payload=np.asarray(message.payload) + 1)

    def following(self, done: Message) -> Message:
        return replace(done, step=done.step + 1, steps_left=done.steps_left - 1)


def decode(epoch: int, *, steps_left: int = 0) -> Message:
    return Message(
        phase="decode",
        micro_batch=0,
        step=1,
        groups=(0,),
        first_row=0,
        payload=np.zeros(2, np.int32),
        slot_B=np.ones(2, np.int32),
        sampling=greedy_rows(2),
        steps_left=steps_left,
        epoch=epoch,
    )


@pytest.fixture
def worker() -> AddsOne:
    return AddsOne()


@pytest.fixture
def actor(worker: AddsOne) -> StageActor:
    made = StageActor()
    made._worker = worker  # pyright: ignore[reportAttributeAccessIssue]
    made._terminal = ActorCalls(made)
    return made


def payloads(parcels: list[SerializedMessage]) -> list[list[int]]:
    return [np.asarray(parcel.message.payload).tolist() for parcel in parcels]


def test_what_a_stage_makes_goes_to_the_next_one(actor):
    after: Any = Mailbox()
    actor.begin(1, None, after)
    actor.receive(pack(decode(1)))
    assert payloads([after.parcels.get(timeout=60)]) == [[1, 1]]


def test_nothing_of_another_epoch_is_taken_in(actor):
    after: Any = Mailbox()
    actor.begin(2, None, after)
    for epoch in (1, 3, 2):
        actor.receive(pack(decode(epoch)))
    assert after.parcels.get(timeout=60).message.epoch == 2
    assert after.parcels.empty()


def test_what_is_at_work_when_an_epoch_ends_is_not_handed_on(actor, worker):
    after: Any = Mailbox()
    worker.may_end.clear()
    actor.begin(1, None, after)
    actor.receive(pack(decode(1)))
    actor.receive(pack(decode(1)))
    assert worker.began.wait(60)
    threading.Timer(0.1, worker.may_end.set).start()
    actor.begin(2, None, after)
    actor.receive(pack(decode(2)))
    assert after.parcels.get(timeout=60).message.epoch == 2
    assert after.parcels.empty()


def test_the_last_stage_sends_its_tokens_to_the_first_until_no_step_is_left(actor):
    first: Any = Mailbox()
    actor.begin(1, first, None)
    actor.receive(pack(decode(1, steps_left=2)))
    for left in (1, 0):
        parcel = first.parcels.get(timeout=60)
        assert parcel.message.steps_left == left
        actor.receive(parcel)
    (result,) = actor.collect()
    np.testing.assert_array_equal(result.message.tokens, [[1, 1], [2, 2], [3, 3]])
    assert result.message.num_steps == 3
    assert first.parcels.empty()


def test_whoever_waits_for_results_of_an_ended_epoch_gets_none(actor):
    actor.begin(1, None, None)
    found: list[list[SerializedMessage]] = []
    waiting = threading.Thread(target=lambda: found.append(actor.collect()))
    waiting.start()
    actor.begin(2, None, None)
    waiting.join(60)
    assert found == [[]]


def test_what_a_stage_raises_comes_to_whoever_collects(actor, worker, monkeypatch):
    def fail(*_: object) -> None:
        msg = "stage broke"
        raise RuntimeError(msg)

    monkeypatch.setattr(worker, "process", fail)
    actor.begin(1, None, None)
    actor.receive(pack(decode(1)))
    with pytest.raises(RuntimeError, match="stage broke"):
        actor.collect()
