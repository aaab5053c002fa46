from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Pipeline, Request, Sampling
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.runtime.workload_summary import summarize_workload
from llmpq_jax.stage.message import StageEvent
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def strategy(tmp_path_factory):
    model = write_tiny_model(tmp_path_factory.mktemp("stream") / "model")
    return make_strategy(model, [((0,), [16, 8]), ((1,), [4, 8])])


@pytest.fixture(scope="module")
def pipeline(strategy) -> Iterator[Pipeline]:
    with Pipeline.load(strategy) as pipeline:
        yield pipeline


def requests_of(count: int) -> Iterator[Request]:
    """Makes requests that differ in all fields."""
    for number in range(count):
        yield Request(
            token_ids=tuple(range(1 + number, 2 + number + number * 7 % 15)),
            max_new_tokens=1 + number * 5 % 8,
            sampling=Sampling(temperature=number % 3 * 0.5, seed=number),
            ignores_eos=True,
        )


def test_each_request_is_completed_once_and_as_if_it_were_alone(pipeline, strategy):
    requests = list(requests_of(50))
    summary = summarize_workload(requests, strategy)
    assert summary is not None
    assert summary.look_ahead < len(requests)
    completed = list(pipeline.stream(enumerate(requests), summary))
    found = dict(completed)
    assert len(completed) == len(found) == len(requests)
    assert [found[number] for number in range(50)] == list(pipeline.serve(requests))
    assert found[49] == next(pipeline.serve([requests[49]]))


def test_live_objects_do_not_grow_with_the_number_of_requests(pipeline, strategy):
    def max_alive(count: int) -> int:
        summary = summarize_workload(requests_of(count), strategy)
        assert summary is not None
        num_read = 0

        def read() -> Iterator[tuple[int, Request]]:
            nonlocal num_read
            for request in requests_of(count):
                num_read += 1
                yield num_read, request

        max_found = 0
        stream = pipeline.stream(read(), summary, keeps_events=False)
        for num_ended, _ in enumerate(stream):
            assert num_read - num_ended <= summary.look_ahead + 2 * batch
            alive = sum(
                isinstance(each, Sequence | StageEvent) for each in gc.get_objects()
            )
            max_found = max(max_found, alive)
        record = pipeline.batches[-1]
        assert record.num_requests == count
        assert record.events == ()
        assert record.stages[0].busy_s > 0
        return max_found

    batch = strategy.workload.batch
    # Events are collected after every 64 requests, each of at most 8 tokens.
    assert max_alive(400) <= max_alive(130) + 64


def test_requests_that_the_summary_does_not_count_are_refused(pipeline, strategy):
    few, more = list(requests_of(3)), list(requests_of(12))
    summary = summarize_workload(few, strategy)
    assert summary is not None
    stream = pipeline.stream(enumerate(more), summary)
    with pytest.raises(RequestError, match="are not those that were counted"):
        list(stream)
    # The stages are free for others.
    assert len(list(pipeline.serve(few))) == 3
