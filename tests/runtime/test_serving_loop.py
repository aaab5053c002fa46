"""Requests at any time, to a loaded model: the same tokens as one by one, and what is added."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.engines.engine import DeviceFailedError, StageFailedError
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import (
    Completion,
    LogitChanges,
    Request,
    Sampling,
    TokenLogprobs,
)
from llmpq_jax.runtime.serving_loop import (
    NotServingError,
    QueueFullError,
    ServedRequest,
    ServingLoop,
)
from llmpq_jax.schema.precision import Bits
from tests.support.tiny_models import make_strategy, write_tiny_model


class Client:
    """Waits for a request's tokens."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.num_calls = 0
        self.done = threading.Event()

    def __call__(
        self,
        token_ids: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...],
        *,
        is_finished: bool,
    ) -> None:
        self.num_calls += 1
        self.token_ids += token_ids
        self.logprobs += logprobs
        if is_finished:
            assert not self.done.is_set()
            self.done.set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="module", params=["one stage", "two stages"])
def pipeline(folder: Path, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    stages: list[tuple[tuple[int, ...], list[Bits]]] = (
        [((0,), [16, 8, 8, 16])]
        if request.param == "one stage"
        else [((0,), [16, 8]), ((1,), [8, 16])]
    )
    strategy = make_strategy(
        folder, stages, batch=4, decode=2, prompt_length=60, new_tokens=36
    )
    with Pipeline.load(strategy) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def loop(pipeline: Pipeline) -> Iterator[ServingLoop]:
    serving = ServingLoop(pipeline, max_waiting=1024)
    serving.prepare()
    serving.start()
    yield serving
    serving.close(timeout_s=60)
    assert serving.error is None


def _finished(loop: ServingLoop, request: Request) -> tuple[Completion, Client]:
    client = Client()
    served = loop.submit(request, client)
    assert client.done.wait(60)
    return served.completion(), client


def _requests(count: int) -> list[Request]:
    random = Random(3)
    return [
        Request(
            token_ids=tuple(
                random.randrange(4, 200) for _ in range(random.randint(1, 60))
            ),
            max_new_tokens=random.randint(1, 30),
            sampling=Sampling(temperature=random.choice([0.0, 0.8]), seed=number),
            top_logprobs=random.choice([None, None, 3]),
        )
        for number, _ in enumerate(range(count))
    ]


@pytest.mark.parametrize(
    "num_requests", [pytest.param(200, marks=pytest.mark.full), 24]
)
def test_tokens_are_those_of_each_request_alone(
    pipeline: Pipeline, loop: ServingLoop, num_requests: int
) -> None:
    requests = _requests(num_requests)
    random = Random(5)
    clients = [Client() for _ in requests]
    sequences: list[ServedRequest] = []
    for request, client in zip(requests, clients, strict=True):
        sequences.append(loop.submit(request, client))
        if random.random() < 0.3:
            loop.submit(random.choice(requests), Client()).cancel()
        if random.random() < 0.3:
            random.choice(clients[: len(sequences)]).done.wait(60)
    assert all(client.done.wait(60) for client in clients)
    with Pipeline.load(pipeline.strategy) as alone:
        # Of which other laws say that a batch has no effect on its requests.
        expected_of = list(alone.serve(requests))
        for expected, sequence, client in zip(
            expected_of, sequences, clients, strict=True
        ):
            found = sequence.completion()
            assert found.token_ids == expected.token_ids == tuple(client.token_ids)
            assert found.text == expected.text
            assert found.finish_reason == expected.finish_reason
            if expected.logprobs is not None:
                assert found.logprobs is not None
                for one, other in zip(found.logprobs, expected.logprobs, strict=True):
                    assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
                assert tuple(client.logprobs) == found.logprobs


def test_the_second_turn_continues_the_first_one_s_cache(loop: ServingLoop) -> None:
    first = Request(token_ids=tuple(range(5, 50)), max_new_tokens=6, ignores_eos=True)
    answer, _ = _finished(loop, first)
    turn = Request(
        token_ids=(*first.token_ids, *answer.token_ids, 7, 8), max_new_tokens=6
    )
    before = loop.counters.num_cached_tokens
    again, _ = _finished(loop, turn)
    assert loop.counters.num_cached_tokens - before == 45 + 5
    with Pipeline.load(loop.pipeline.strategy) as alone:
        (expected,) = alone.serve([turn])
    assert again.token_ids == expected.token_ids


def test_prompts_have_log_probabilities(loop: ServingLoop) -> None:
    token_ids = tuple(Random(1).randrange(4, 200) for _ in range(50))
    request = Request(
        token_ids=token_ids,
        max_new_tokens=1,
        top_logprobs=2,
        wants_prompt_logprobs=True,
    )
    found, client = _finished(loop, request)
    with Pipeline.load(loop.pipeline.strategy) as alone:
        logits = alone.score([token_ids])[0].astype(np.float64)
    logprobs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    assert found.prompt_logprobs is not None
    assert len(found.prompt_logprobs) == len(token_ids) - 1
    for position, place in enumerate(found.prompt_logprobs):
        row = logprobs[position]
        assert place.logprob == pytest.approx(row[token_ids[position + 1]], abs=1e-4)
        assert [each for each, _ in place.top_tokens] == np.argsort(-row)[:2].tolist()
    assert client.logprobs[0].logprob == pytest.approx(logprobs[-1].max(), abs=1e-4)


def test_biases_and_penalties_choose_as_they_do_one_token_at_a_time(
    loop: ServingLoop, pipeline: Pipeline
) -> None:
    changes = LogitChanges(
        bias=((9, 2.0), (11, -100.0)),
        presence_penalty=0.5,
        frequency_penalty=0.7,
        repetition_penalty=1.3,
    )
    request = Request(
        token_ids=(5, 9, 11, 5, 30),
        max_new_tokens=8,
        ignores_eos=True,
        logit_changes=changes,
    )
    found, _ = _finished(loop, request)
    with Pipeline.load(pipeline.strategy) as alone:
        (in_batch,) = alone.serve([request])
        expected: list[int] = []
        for _ in range(request.max_new_tokens):
            (rows,) = alone.score([(*request.token_ids, *expected)])
            logits = rows[-1].astype(np.float64)
            logits[9] += 2
            logits[11] -= 100
            for token in set(request.token_ids) | set(expected):
                logits[token] *= 1 / 1.3 if logits[token] > 0 else 1.3
            for token in set(expected):
                logits[token] -= 0.5 + 0.7 * expected.count(token)
            expected.append(int(logits.argmax()))
    assert list(found.token_ids) == expected
    assert list(in_batch.token_ids) == expected


def test_tokens_come_as_often_whether_their_logits_are_changed_or_not(
    loop: ServingLoop,
) -> None:
    num_calls = []
    for changes in (LogitChanges(), LogitChanges(presence_penalty=0.5)):
        request = Request(
            token_ids=(5, 9, 11),
            max_new_tokens=30,
            ignores_eos=True,
            logit_changes=changes,
        )
        completion, client = _finished(loop, request)
        assert tuple(client.token_ids) == completion.token_ids
        num_calls.append(client.num_calls)
    assert num_calls[0] == num_calls[1]


def test_what_nobody_waits_for_ends(loop: ServingLoop) -> None:
    client = Client()
    request = Request(token_ids=(5, 6), max_new_tokens=36, ignores_eos=True)
    served = loop.submit(request, client)
    served.cancel()
    assert client.done.wait(60)
    completion = served.completion()
    assert completion.finish_reason == "cancelled"
    assert len(completion.token_ids) < 36
    assert loop.num_unfinished == 0


def test_a_request_that_does_not_fit_is_refused(loop: ServingLoop) -> None:
    request = Request(token_ids=(5,) * 60, max_new_tokens=500)
    with pytest.raises(RequestError, match="expected at most"):
        loop.submit(request, Client())
    assert loop.num_unfinished == 0


def test_a_full_queue_refuses_and_a_closed_loop_finishes_what_it_has(
    folder: Path,
) -> None:
    strategy = make_strategy(folder, [((0,), [16] * 4)], batch=1, decode=1)
    with Pipeline.load(strategy) as loaded:
        serving = ServingLoop(loaded, max_waiting=1)
        serving.start()
        request = Request(token_ids=(5, 6), max_new_tokens=8, ignores_eos=True)
        clients = [Client(), Client()]
        sequences = [serving.submit(request, client) for client in clients]
        with pytest.raises(QueueFullError, match="1 requests wait"):
            serving.submit(request, Client())
        serving.close(timeout_s=60)
        assert all(client.done.is_set() for client in clients)
        assert [len(each.sequence.token_ids) for each in sequences] == [8, 8]
        with pytest.raises(NotServingError):
            serving.submit(request, Client())


class LostDevice:
    """An engine of which a device fails for good after some results."""

    def __init__(self, engine: Any, num_results: int) -> None:
        self._engine = engine
        self._num_left = num_results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def next_result(self) -> Any:
        self._num_left -= 1
        if self._num_left < 0:
            msg = "stage 0 failed"
            raise StageFailedError(msg)
        return self._engine.next_result()

    def recover(self, failure: StageFailedError) -> None:
        raise DeviceFailedError(str(failure), devices=["node0/cpu:0"], nodes=[])


@pytest.mark.parametrize(
    "num_results",
    [*(pytest.param(number, marks=pytest.mark.full) for number in (0, 9)), 3],
)
def test_another_loop_continues_what_a_lost_device_left(
    folder: Path, num_results: int
) -> None:
    strategy = make_strategy(
        folder, [((0,), [16] * 4)], batch=2, decode=2, prompt_length=60, new_tokens=36
    )
    accepted: list[tuple[Request, Client, ServedRequest]] = []
    with Pipeline.load(strategy) as pipeline:
        pipeline.engine = LostDevice(pipeline.engine, num_results)  # pyright: ignore[reportAttributeAccessIssue]
        first = ServingLoop(pipeline)
        first.start()
        for request in _requests(5):
            client = Client()
            with suppress(NotServingError):
                accepted.append((request, client, first.submit(request, client)))
        first.close(timeout_s=60)
        assert isinstance(first.error, DeviceFailedError)
    assert accepted
    # A client that leaves between the two.
    left_request, left_client, left = accepted.pop()
    num_tokens = len(left_client.token_ids)
    left.cancel()
    with Pipeline.load(strategy) as pipeline:
        second = ServingLoop(pipeline)
        second.start()
        second.adopt(first.unfinished)
        assert all(client.done.wait(60) for _, client, _ in accepted)
        assert left_client.done.wait(60)
        second.close(timeout_s=60)
        assert len(left_client.token_ids) == num_tokens < left_request.max_new_tokens
        expected = list(pipeline.serve([request for request, _, _ in accepted]))
    for (_, client, served), alone in zip(accepted, expected, strict=True):
        assert served.completion().token_ids == alone.token_ids
        assert tuple(client.token_ids) == alone.token_ids
