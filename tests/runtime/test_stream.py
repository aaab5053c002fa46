from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Pipeline, Request, Sampling
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.runtime.workload_summary import summarize_workload
from llmpq_jax.stage.message import StageEvent
from tests.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def strategy(tmp_path_factory):
    model = write_tiny_model(tmp_path_factory.mktemp("stream") / "model")
    return make_strategy(model, [((0,), [16, 8]), ((1,), [4, 8])])


@pytest.fixture(scope="module")
def pipeline(strategy) -> Iterator[Pipeline]:
    with Pipeline.load(strategy) as pipeline:
        yield pipeline


def requests_of(count: int) -> Iterator[Request]:
    """Makes requests that differ in all that a request may."""
    for number in range(count):
        yield Request(
            token_ids=tuple(range(1 + number, 2 + number + number * 7 % 15)),
            max_new_tokens=1 + number * 5 % 8,
            sampling=Sampling(temperature=number % 3 * 0.5, seed=number),
            ignores_eos=True,
        )


def test_each_comes_once_and_as_it_would_alone(pipeline, strategy):
    requests = list(requests_of(50))
    demand = summarize_workload(requests, strategy)
    assert demand is not None
    assert demand.look_ahead < len(requests)
    ended = list(pipeline.stream(enumerate(requests), demand))
    found = dict(ended)
    assert len(ended) == len(found) == len(requests)
    assert [found[number] for number in range(50)] == list(pipeline.serve(requests))
    assert found[49] == next(pipeline.serve([requests[49]]))


def test_what_is_alive_does_not_grow_with_the_requests(pipeline, strategy):
    def max_alive(count: int) -> int:
        demand = summarize_workload(requests_of(count), strategy)
        assert demand is not None
        num_read = 0

        def read() -> Iterator[tuple[int, Request]]:
            nonlocal num_read
            for request in requests_of(count):
                num_read += 1
                yield num_read, request

        most = 0
        stream = pipeline.stream(read(), demand, keeps_events=False)
        for num_ended, _ in enumerate(stream):
            assert num_read - num_ended <= demand.look_ahead + 2 * batch
            alive = sum(
                isinstance(each, Sequence | StageEvent) for each in gc.get_objects()
            )
            most = max(most, alive)
        record = pipeline.batches[-1]
        assert record.num_requests == count
        assert record.events == ()
        assert record.stages[0].busy_s > 0
        return most

    batch = strategy.workload.batch
    # Events are taken when 64 requests have ended, each of at most 8 tokens.
    assert max_alive(400) <= max_alive(130) + 64


def test_requests_that_were_not_counted_are_refused(pipeline, strategy):
    few, more = list(requests_of(3)), list(requests_of(12))
    demand = summarize_workload(few, strategy)
    assert demand is not None
    stream = pipeline.stream(enumerate(more), demand)
    with pytest.raises(RequestError, match="are not those that were counted"):
        list(stream)
    # The stages are free for others.
    assert len(list(pipeline.serve(few))) == 3
