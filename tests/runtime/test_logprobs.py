"""Log-probabilities are those of the scores, and requesting them changes no token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Pipeline, Request, Sampling
from llmpq_jax.runtime.request import MAX_TOP_LOGPROBS
from llmpq_jax.stage.sampling import MAX_TOP_LOGPROBS as MAX_RETURNED
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("logprobs") / "model")


def requests_of(count: int) -> list[Request]:
    """Makes requests some of which ask for log-probabilities, mixed in each batch."""
    return [
        Request(
            token_ids=tuple(range(1 + number, 3 + number + number * 7 % 14)),
            max_new_tokens=1 + number * 5 % 8,
            sampling=Sampling(temperature=number % 2 * 0.8, seed=number),
            ignores_eos=True,
            top_logprobs=(None, 0, 3, 20)[number % 4],
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "stages",
    [
        pytest.param([((0,), [16, 8, 16, 8])], id="one stage", marks=pytest.mark.full),
        pytest.param([((0,), [16, 8]), ((1,), [4, 8])], id="two stages"),
        pytest.param([((0, 1), [16, 8, 16, 8])], id="a mesh", marks=pytest.mark.full),
    ],
)
def test_logprobs_are_those_of_the_scores_and_change_no_token(model, stages):
    strategy = make_strategy(model, stages, chunk_tokens=16)
    requests = requests_of(11)
    silent = [replace(request, top_logprobs=None) for request in requests]
    with Pipeline.load(strategy) as pipeline:
        completions = list(pipeline.serve(requests))
        without = list(pipeline.serve(silent))
        assert [c.token_ids for c in completions] == [c.token_ids for c in without]
        for request, completion in zip(requests, completions, strict=True):
            if request.top_logprobs is None:
                assert completion.logprobs is None
                continue
            assert completion.logprobs is not None
            token_ids = completion.token_ids
            text = (*request.token_ids, *token_ids)
            logits = pipeline.score([text[:-1]])[0].astype(np.float64)
            logits = logits[len(request.token_ids) - 1 :]
            expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            assert len(completion.logprobs) == len(token_ids) == len(expected)
            for token, each, row in zip(
                token_ids, completion.logprobs, expected, strict=True
            ):
                # Scores are computed in whole rows, tokens through the cache, so float32
                # sums are taken in another order.
                assert each.logprob == pytest.approx(row[token], abs=1e-4)
                assert len(each.top_tokens) == request.top_logprobs
                values = [logprob for _, logprob in each.top_tokens]
                assert values == sorted(values, reverse=True)
                np.testing.assert_allclose(
                    values, np.sort(row)[::-1][: len(values)], atol=1e-4
                )
                for likely, logprob in each.top_tokens:
                    assert logprob == pytest.approx(row[likely], abs=1e-4)


def test_requests_may_ask_for_as_many_top_logprobs_as_stages_return():
    assert MAX_TOP_LOGPROBS == MAX_RETURNED


def test_too_many_top_logprobs_are_refused():
    with pytest.raises(RequestError, match="top_logprobs is 21, expected 0 to 20"):
        Request(token_ids=(1,), max_new_tokens=1, top_logprobs=21)
