"""Requests with a partial completion continue as if they had never stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_jax.runtime import Completion, Pipeline, Request, Sampling
from llmpq_jax.runtime.request import PartialCompletion
from tests.support.tiny_models import make_strategy, write_tiny_model

NEW_TOKENS = 8
REQUESTS = [
    Request(
        token_ids=tuple(range(index, 3 * index + 2)),
        max_new_tokens=NEW_TOKENS,
        ignores_eos=True,
        sampling=Sampling(temperature=0.8 * (index % 2), seed=index),
        stop=("zzzz",) if index == 2 else (),
        top_logprobs=2 if index == 3 else None,
    )
    for index in range(5)
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), num_hidden_layers=2)
    strategy = make_strategy(folder, [((0,), [16]), ((1,), [8])])
    with Pipeline.load(strategy) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline) -> list[Completion]:
    return list(pipeline.serve(REQUESTS))


# An example compiles the lengths it meets.
@settings(max_examples=max(3, settings().max_examples // 10))
@given(
    st.lists(
        st.integers(0, NEW_TOKENS - 1),
        min_size=len(REQUESTS),
        max_size=len(REQUESTS),
    )
)
def test_a_request_continues_after_its_partial_completion(pipeline, whole, cuts):
    partial = [
        replace(
            request,
            partial=PartialCompletion(
                token_ids=completion.token_ids[:cut],
                logprobs=(completion.logprobs or ())[:cut],
            ),
        )
        for request, completion, cut in zip(REQUESTS, whole, cuts, strict=True)
    ]
    served = list(pipeline.serve(partial))
    assert [each.token_ids for each in served] == [each.token_ids for each in whole]
    assert [each.text for each in served] == [each.text for each in whole]
    assert [len(each.logprobs or ()) for each in served] == [
        len(each.logprobs or ()) for each in whole
    ]
    assert pipeline.batches[-1].num_new_tokens == sum(NEW_TOKENS - cut for cut in cuts)
