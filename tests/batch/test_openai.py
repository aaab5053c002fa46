from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch.prompt import Choices, Prompt
from llmpq_jax.batch.prompt_line import parse_line, prompt_of_line
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Sampling

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def line_of(url: str, **body: object) -> dict[str, object]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body}


def prompt_of(values: object) -> Prompt:
    parsed = parse_line(json.dumps(values))
    return prompt_of_line(
        parsed, Choices(max_new_tokens=5), number=1, custom_id="a", where="here"
    )


def test_a_conversation_says_all_that_a_request_may():
    body = {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, *HELLO],
        "max_tokens": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 4,
        "stop": ["x", "y"],
    }
    assert prompt_of(line_of(CHAT, **body)) == Prompt(
        number=1,
        custom_id="a",
        content=tuple(body["messages"]),
        where="here",
        form="chat",
        model="m",
        max_new_tokens=3,
        sampling=Sampling(temperature=0.5, top_p=0.9, seed=4),
        stop=("x", "y"),
    )


def test_a_completion_is_of_a_text_or_of_token_ids():
    text = prompt_of(line_of(TEXT, model="m", prompt="def f"))
    assert (text.form, text.content, text.max_new_tokens) == ("completion", "def f", 5)
    tokens = prompt_of(line_of(TEXT, prompt=[3, 1, 2]))
    assert tokens.content == (3, 1, 2)
    assert tokens.text == "3 1 2"


def test_parts_of_a_message_are_joined():
    parts = [{"type": "text", "text": text} for text in ("one ", "two")]
    prompt = prompt_of(line_of(CHAT, messages=[{"role": "user", "content": parts}]))
    assert prompt.text == "one two"


def test_the_newer_name_of_max_tokens_means_the_same():
    line = line_of(CHAT, messages=HELLO, max_completion_tokens=7)
    assert prompt_of(line).max_new_tokens == 7


def test_both_endpoints_may_ask_for_log_probabilities_and_choices():
    chat = prompt_of(line_of(CHAT, messages=HELLO, logprobs=True, top_logprobs=2, n=3))
    assert (chat.top_logprobs, chat.num_choices) == (2, 3)
    assert prompt_of(line_of(CHAT, messages=HELLO, logprobs=True)).top_logprobs == 0
    assert prompt_of(line_of(CHAT, messages=HELLO, logprobs=False)).top_logprobs is None
    text = prompt_of(line_of(TEXT, prompt="a", logprobs=5, n=128))
    assert (text.top_logprobs, text.num_choices) == (5, 128)
    assert prompt_of(line_of(TEXT, prompt="a")).top_logprobs is None


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("user", "metadata", "stream", "presence_penalty", "tools", "n"),
                *("logprobs", "top_p", "stop", "seed", "temperature", "logit_bias"),
            ]
        ),
        st.none(),
    )
)
def test_null_is_as_good_as_absent(nothing):
    bare = prompt_of(line_of(CHAT, messages=HELLO))
    assert prompt_of(line_of(CHAT, messages=HELLO, **nothing)) == bare


def test_what_asks_for_nothing_changes_nothing():
    asking = {
        "stream": False,
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "logit_bias": {},
        "n": 1,
        "user": "someone",
        "response_format": {"type": "text"},
        "tools": [],
    }
    bare = prompt_of(line_of(CHAT, messages=HELLO))
    assert prompt_of(line_of(CHAT, messages=HELLO, **asking)) == bare


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"url": CHAT, "prompt": "a"},
            "prompt: unknown key; expected one of custom_id",
        ),
        ({"url": CHAT, "method": "GET"}, "method: found 'GET', expected \"POST\""),
        ({"body": {}}, "url: missing, expected /v1/chat/completions or"),
        ({"url": "/v1/embeddings"}, "url: found '/v1/embeddings', expected"),
        ({"url": ["x"]}, "url: found ['x'], expected"),
        ({"url": CHAT}, "body: missing, expected an object"),
        ({"url": CHAT, "body": []}, "body: found [], expected an object"),
        (line_of(CHAT), "body.messages: missing, expected a list of messages"),
        (line_of(TEXT), "body.prompt: missing, expected a text or a list of token"),
        (line_of(CHAT, messages=[]), "body.messages: found none, expected at least"),
        (line_of(CHAT, messages="hi"), "body.messages: found 'hi', expected a list"),
        (line_of(CHAT, messages=["hi"]), "body.messages[0]: found 'hi', expected an"),
        (
            line_of(CHAT, messages=[*HELLO, {"role": "user"}]),
            "body.messages[1].content: missing, expected a text",
        ),
        (
            line_of(CHAT, messages=[{"role": 3, "content": "a"}]),
            "body.messages[0].role: found 3, expected a text",
        ),
        (
            line_of(CHAT, messages=[{**HELLO[0], "tool_calls": [1]}]),
            "body.messages[0].tool_calls: unknown key; expected role, content, name",
        ),
        (
            line_of(
                CHAT,
                messages=[{"role": "user", "content": [{"type": "image_url"}]}],
            ),
            "body.messages[0].content[0]: found {'type': 'image_url'}, expected",
        ),
        (line_of(TEXT, prompt=["a", "b"]), "body.prompt: found a list that is not of"),
        (line_of(TEXT, prompt=""), "the prompt is empty: expected at least one"),
        (line_of(TEXT, prompt=[]), "the prompt is empty: expected at least one"),
        (line_of(TEXT, prompt="a", messages=HELLO), "body.messages: unknown key"),
        (line_of(TEXT, prompt="a", seed=True), "body.seed: found True, expected a"),
        (line_of(TEXT, prompt="a", max_tokens=0), "max_new_tokens is 0, expected"),
        (line_of(TEXT, prompt="a", stop=[""]), "stop: found [''], expected texts"),
        (line_of(TEXT, prompt="a", temperature=-1), "temperature is -1, expected"),
        (line_of(TEXT, prompt="a", n=0), "n is 0, expected 1 to 128"),
        (line_of(TEXT, prompt="a", n=True), "body.n: found True, expected a whole"),
        (
            line_of(TEXT, prompt="a", n=2, seed=2**32 - 1),
            "seed is 4294967296, expected 0 to 4294967295",
        ),
        (
            line_of(TEXT, prompt="a", logprobs=21),
            "logprobs: 21 of the likeliest are asked for, expected 0 to 20",
        ),
        (
            line_of(TEXT, prompt="a", logprobs=True),
            "body.logprobs: found True, expected a whole number",
        ),
        (
            line_of(CHAT, messages=HELLO, logprobs=1),
            "body.logprobs: found 1, expected true or false",
        ),
        (
            line_of(CHAT, messages=HELLO, top_logprobs=1),
            "body.top_logprobs: found without logprobs, expected",
        ),
        (
            line_of(TEXT, prompt="a", stream=True),
            "body.stream: found True, expected False: nothing else is supported",
        ),
        (
            line_of(TEXT, prompt="a", logit_bias={"1": 2}),
            "body.logit_bias: found {'1': 2}, expected {}",
        ),
        (
            line_of(CHAT, messages=HELLO, max_tokens=1, max_completion_tokens=2),
            "body.max_tokens is 1 and body.max_completion_tokens 2: expected one",
        ),
    ],
)
def test_what_cannot_be_served_as_it_is_meant_is_refused_by_name(values, message):
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        prompt_of(values)
