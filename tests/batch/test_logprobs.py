from __future__ import annotations

from dataclasses import replace

from llmpq_jax.batch.result_line import logprobs_values
from llmpq_jax.runtime import Completion
from llmpq_jax.runtime.request import TokenLogprobs

TEXTS = {1: "né", 2: "\N{REPLACEMENT CHARACTER}", 3: "", 4: "x"}
COMPLETION = Completion(
    token_ids=(1, 2, 3),
    text="né…",
    finish_reason="eos",
    num_prompt_tokens=5,
    logprobs=(
        TokenLogprobs(logprob=-0.5, top_tokens=((1, -0.5), (4, -1.0))),
        TokenLogprobs(logprob=-2.0, top_tokens=((4, -0.25), (2, -2.0))),
        TokenLogprobs(logprob=-0.1, top_tokens=((3, -0.1), (4, -3.0))),
    ),
)


def test_a_conversation_tells_each_token_with_its_bytes():
    """The end token has no text; a part of a character has no bytes we know."""
    first = {"token": "né", "logprob": -0.5, "bytes": [110, 195, 169]}
    second = {"token": TEXTS[2], "logprob": -2.0, "bytes": None}
    assert logprobs_values(COMPLETION, TEXTS.__getitem__, is_chat=True) == {
        "content": [
            first
            | {
                "top_logprobs": [first, {"token": "x", "logprob": -1.0, "bytes": [120]}]
            },
            second
            | {
                "top_logprobs": [
                    {"token": "x", "logprob": -0.25, "bytes": [120]},
                    second,
                ]
            },
        ],
        "refusal": None,
    }


def test_a_completion_tells_where_each_token_begins():
    assert logprobs_values(COMPLETION, TEXTS.__getitem__, is_chat=False) == {
        "tokens": ["né", TEXTS[2]],
        "token_logprobs": [-0.5, -2.0],
        "top_logprobs": [{"né": -0.5, "x": -1.0}, {"x": -0.25, TEXTS[2]: -2.0}],
        "text_offset": [0, 2],
    }


def test_where_none_were_asked_for_none_are_told():
    silent = replace(COMPLETION, logprobs=None)
    assert logprobs_values(silent, TEXTS.__getitem__, is_chat=True) is None


def test_a_text_that_was_not_ended_by_the_model_tells_of_all_its_tokens():
    cut = replace(COMPLETION, finish_reason="length")
    values = logprobs_values(cut, TEXTS.__getitem__, is_chat=False)
    assert values is not None
    assert len(values["tokens"]) == 3
