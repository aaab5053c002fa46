"""A stage's actor without Ray, with mailboxes as neighbours and a worker that adds one."""

from __future__ import annotations

import queue
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmpq_jax.runtime.engines.ray.actor import StageActor
from llmpq_jax.runtime.engines.transport.endpoint import ActorEndpoint
from llmpq_jax.runtime.engines.transport.serialized import SerializedMessage, serialize
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.worker import StageWorker


class Mailbox:
    """Receives messages as the handle of another actor does."""

    def __init__(self) -> None:
        self.received: queue.SimpleQueue[SerializedMessage] = queue.SimpleQueue()
        self.receive = SimpleNamespace(remote=self.received.put)


class AddsOne(StageWorker):
    """A worker whose results may be held back."""

    sharding: Any = SimpleNamespace(put=np.asarray)

    def __init__(self) -> None:
        self.stage = 0
        self.began = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def count_received(self, message: Message) -> None:
        pass

    def process(self, message: Message, received_s: float) -> Message:
        self.began.set()
        assert self.may_end.wait(60)
        return replace(message, payload=np.asarray(message.payload) + 1)

    def next_step(self, result: Message) -> Message:
        return replace(result, step=result.step + 1, steps_left=result.steps_left - 1)


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
    made.attach(worker, ActorEndpoint(made))
    return made


def payloads(received: list[SerializedMessage]) -> list[list[int]]:
    return [np.asarray(each.message.payload).tolist() for each in received]


def test_a_stage_sends_its_results_to_the_next_one(actor):
    following: Any = Mailbox()
    actor.start_epoch(1, None, following)
    actor.receive(serialize(decode(1)))
    assert payloads([following.received.get(timeout=60)]) == [[1, 1]]


def test_messages_of_other_epochs_are_dropped(actor):
    following: Any = Mailbox()
    actor.start_epoch(2, None, following)
    for epoch in (1, 3, 2):
        actor.receive(serialize(decode(epoch)))
    assert following.received.get(timeout=60).message.epoch == 2
    assert following.received.empty()


def test_a_result_of_an_epoch_that_has_ended_is_not_sent(actor, worker):
    following: Any = Mailbox()
    worker.may_end.clear()
    actor.start_epoch(1, None, following)
    actor.receive(serialize(decode(1)))
    actor.receive(serialize(decode(1)))
    assert worker.began.wait(60)
    threading.Timer(0.1, worker.may_end.set).start()
    actor.start_epoch(2, None, following)
    actor.receive(serialize(decode(2)))
    assert following.received.get(timeout=60).message.epoch == 2
    assert following.received.empty()


def test_the_last_stage_sends_its_tokens_to_the_first_until_no_step_is_left(actor):
    first: Any = Mailbox()
    actor.start_epoch(1, first, None)
    actor.receive(serialize(decode(1, steps_left=2)))
    for left in (1, 0):
        received = first.received.get(timeout=60)
        assert received.message.steps_left == left
        actor.receive(received)
    (result,) = actor.collect()
    np.testing.assert_array_equal(result.message.tokens, [[1, 1], [2, 2], [3, 3]])
    assert result.message.num_steps == 3
    assert first.received.empty()


def test_collecting_returns_nothing_once_the_epoch_has_ended(actor):
    actor.start_epoch(1, None, None)
    found: list[list[SerializedMessage]] = []
    waiting = threading.Thread(target=lambda: found.append(actor.collect()))
    waiting.start()
    actor.start_epoch(2, None, None)
    waiting.join(60)
    assert found == [[]]


def test_collecting_raises_what_a_stage_raised(actor, worker, monkeypatch):
    def fail(*_: object) -> None:
        msg = "stage broke"
        raise RuntimeError(msg)

    monkeypatch.setattr(worker, "process", fail)
    actor.start_epoch(1, None, None)
    actor.receive(serialize(decode(1)))
    with pytest.raises(RuntimeError, match="stage broke"):
        actor.collect()
