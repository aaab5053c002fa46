from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.batch.reorder_buffer import ReorderBuffer
from llmpq_jax.batch.result_line import Result
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.runtime.request import Completion, PartialCompletion
from tests.support.tiny_models import write_tiny_model

NUM_CHOICES = (1, 2, 3)
PROMPTS = [
    Prompt(number=n, custom_id=f"p{n}", contents=("x",), where="here", num_choices=n)
    for n in NUM_CHOICES
]
KEYS = [(prompt, index) for prompt in PROMPTS for index in range(prompt.num_requests)]


def completion_of(prompt: Prompt, index: int) -> Completion:
    name = f"{prompt.custom_id} {index}"
    return Completion(
        token_ids=(1,), text=name, finish_reason="eos", prompt_token_ids=(1,)
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer.load(write_tiny_model(tmp_path_factory.mktemp("buffer") / "model"))


@given(st.permutations(KEYS), st.integers(0, len(KEYS)))
def test_a_result_is_written_once_with_its_choices_in_order_and_their_plans(
    tokenizer, order, failed_after
):
    """Whatever the order of completions, and wherever one plan takes over from another."""
    results: list[Result] = []
    completions = [(key, completion_of(*key)) for key in order]
    left = order[failed_after:]
    with closing(ReorderBuffer(results.append)) as buffer:
        buffer.write_complete(completions[:failed_after], tokenizer, plan="first")
        kept = PartialCompletion(token_ids=(7,))
        buffer.add_partial([(key, kept) for key in left[:1]], plan="first")
        for key in KEYS:
            is_complete = buffer.is_written(key[0]) or buffer.is_waiting(*key)
            assert is_complete == (key not in left)
            partial = kept if key in left[:1] else PartialCompletion()
            assert buffer.partial(*key) == partial
        buffer.write_complete(completions[failed_after:], tokenizer, plan="second")
    assert sorted(result.line.number for result in results) == list(NUM_CHOICES)
    for result in results:
        prompt = result.line
        assert isinstance(prompt, Prompt)
        expected = [completion_of(prompt, i) for i in range(prompt.num_requests)]
        assert list(result.completions) == expected
        keys = [(prompt, index) for index in range(prompt.num_requests)]
        by_first = any(key not in left or key == left[0] for key in keys)
        by_second = any(key in left for key in keys)
        plans = (("first", by_first), ("second", by_second))
        assert set(result.plans) == {name for name, is_used in plans if is_used}


def test_a_prompt_that_the_model_failed_at_is_a_bad_line(tokenizer):
    """Its other choices are dropped; the next prompts have their results."""
    results: list[Result] = []
    one, two, three = PROMPTS
    failed = replace(
        completion_of(two, 0), finish_reason="error", error="logits are no numbers"
    )
    stream = [
        ((one, 0), completion_of(one, 0)),
        ((two, 1), completion_of(two, 1)),
        ((two, 0), failed),
        *(((three, index), completion_of(three, index)) for index in range(3)),
    ]
    with closing(ReorderBuffer(results.append)) as buffer:
        assert buffer.failed is None
        buffer.write_complete(stream, tokenizer, plan="first")
        assert buffer.is_written(two)
        bad = results[1].line
        assert isinstance(bad, BadLine)
        assert (bad.custom_id, bad.code) == ("p2", "server_error")
        assert bad.reason == "logits are no numbers"
        assert buffer.failed == (bad, 1)
    assert [result.line for result in results] == [one, bad, three]


def test_partial_completions_can_be_dropped():
    with closing(ReorderBuffer(lambda _: None)) as buffer:
        kept = PartialCompletion(token_ids=(7,))
        buffer.add_partial([(KEYS[0], kept)], plan="first")
        buffer.drop_partial()
        assert buffer.partial(*KEYS[0]) == PartialCompletion()


def test_a_bad_line_is_written_too():
    bad = BadLine(number=4, custom_id="bad", where="here", reason="none")
    with closing(ReorderBuffer(lambda _: None)) as buffer:
        assert not buffer.is_written(bad)
        buffer.write(Result(line=bad))
        assert buffer.is_written(bad)
