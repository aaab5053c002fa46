"""Stages overlap, which the order of events shows, not a clock."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import pytest

from llmpq_jax.runtime import Pipeline, Request
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.worker import StageWorker
from tests.support.tiny_models import make_strategy, write_tiny_model

# Only a pipeline that does not overlap waits this long, and then the test fails.
_PATIENCE_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), num_hidden_layers=2)


class Barrier:
    """Lets the last stage finish a micro-batch only once the first has started another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
        self.condition = threading.Condition()
        self.first_stage: set[tuple[str, int, int]] = set()
        self.num_waited = 0
        self.phase = phase
        process = StageWorker.process

        def wait_first(
            worker: StageWorker, message: Message, received_s: float
        ) -> Message:
            key = (message.phase, message.micro_batch, message.step)
            if worker.stage == 0:
                with self.condition:
                    self.first_stage.add(key)
                    self.condition.notify_all()
            elif message.phase == phase and message.micro_batch == 0:
                other = (message.phase, 1, message.step)
                with self.condition:
                    assert self.condition.wait_for(
                        lambda: other in self.first_stage, _PATIENCE_S
                    ), f"the first stage never started {other}"
                self.num_waited += 1
            return process(worker, message, received_s)

        monkeypatch.setattr(StageWorker, "process", wait_first)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_first_stage_starts_a_micro_batch_before_the_last_ends_the_one_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    barrier = Barrier(monkeypatch, phase)
    strategy = make_strategy(folder, [((0,), [16]), ((1,), [16])], prefill=1, decode=1)
    requests = [
        Request(token_ids=(65 + index,), max_new_tokens=4, ignores_eos=True)
        for index in range(2)
    ]
    with Pipeline.load(strategy) as pipeline:
        list(pipeline.serve(requests))
        events = pipeline.batches[0].events
    assert barrier.num_waited == (1 if phase == "prefill" else 3)
    started = {(e.phase, e.micro_batch, e.step, e.stage): e.started_s for e in events}
    ended = {(e.phase, e.micro_batch, e.step, e.stage): e.ended_s for e in events}
    step = 0 if phase == "prefill" else 1
    assert started[phase, 1, step, 0] < ended[phase, 0, step, 1]


def test_events_of_a_stage_never_overlap_and_follow_the_one_before(
    folder: Path,
) -> None:
    strategy = make_strategy(folder, [((0,), [16]), ((1,), [8])], prefill=1, decode=2)
    requests = [Request(token_ids=(65, 66), max_new_tokens=5, ignores_eos=True)] * 4
    with Pipeline.load(strategy) as pipeline:
        list(pipeline.serve(requests))
        record = pipeline.batches[0]
    assert len(record.events) == 2 * (4 + 2 * 4)
    for stage in (0, 1):
        spans = [(e.started_s, e.ended_s) for e in record.events if e.stage == stage]
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    ends = {
        (e.phase, e.micro_batch, e.step): e.ended_s
        for e in record.events
        if not e.stage
    }
    for event in record.events:
        if event.stage:
            key = (event.phase, event.micro_batch, event.step)
            assert event.started_s >= ends[key]
