from __future__ import annotations

import json
import re
from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch.openai import ChatBody
from llmpq_jax.batch.prompt import Line, Prompt, PromptDefaults
from llmpq_jax.batch.prompt_line import make_prompt, parse_json_line, parse_request
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime import Sampling

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {"type": "function", "function": {"name": "weather"}}


def line_of(url: str, **body: object) -> dict[str, object]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body}


def prompt_of(values: object) -> Prompt:
    request = parse_request(parse_json_line(json.dumps(values)))
    line = Line(number=1, custom_id="a", where="here")
    return make_prompt(request, PromptDefaults(max_new_tokens=5), line)


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
        contents=(tuple(body["messages"]),),
        where="here",
        form="chat",
        model="m",
        max_new_tokens=3,
        sampling=Sampling(temperature=0.5, top_p=0.9, seed=4),
        stop=("x", "y"),
    )


def test_a_completion_is_of_a_text_or_of_token_ids():
    text = prompt_of(line_of(TEXT, model="m", prompt="def f"))
    assert (text.form, text.max_new_tokens) == ("completion", 5)
    assert text.contents == ("def f",)
    tokens = prompt_of(line_of(TEXT, prompt=[3, 1, 2]))
    assert tokens.contents == ((3, 1, 2),)
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
def test_null_is_equivalent_to_an_absent_key(nothing):
    bare = prompt_of(line_of(CHAT, messages=HELLO))
    assert prompt_of(line_of(CHAT, messages=HELLO, **nothing)) == bare


@pytest.mark.parametrize(
    ("url", "key", "value", "attribute", "expected"),
    [
        (TEXT, "temperature", 1, "sampling.temperature", 1),
        (TEXT, "temperature", 0.5, "sampling.temperature", 0.5),
        (TEXT, "top_p", 1, "sampling.top_p", 1),
        (TEXT, "top_p", 0, "sampling.top_p", 0),
        (TEXT, "max_tokens", 4.0, "max_new_tokens", 4),
        (TEXT, "seed", -1, "sampling.seed", -1),
        (TEXT, "seed", 2**40, "sampling.seed", 2**40),
        (TEXT, "n", 3.0, "num_choices", 3),
        (TEXT, "prompt", [3.0], "contents", ((3,),)),
        (TEXT, "prompt", ["a"], "contents", ("a",)),
        (TEXT, "prompt", ["a", "b"], "contents", ("a", "b")),
        (TEXT, "prompt", [[1, 2]], "contents", ((1, 2),)),
        (TEXT, "prompt", [[1], [2, 3]], "contents", ((1,), (2, 3))),
        (TEXT, "stop", [], "stop", ()),
        (TEXT, "logprobs", 0, "top_logprobs", 0),
        (CHAT, "max_completion_tokens", 7, "max_new_tokens", 7),
        (CHAT, "unheard_of", None, "num_choices", 1),
    ],
)
def test_types_of_values_are_kept(url, key, value, attribute, expected):
    """A whole number stays one, and one that is written 4.0 becomes one."""
    content = {"messages": HELLO} if url == CHAT else {"prompt": "a"}
    found = attrgetter(attribute)(prompt_of(line_of(url, **content | {key: value})))
    assert (found, type(found)) == (expected, type(expected))


def test_both_names_of_max_tokens_may_say_the_same():
    both = {"max_tokens": 3, "max_completion_tokens": 3}
    assert prompt_of(line_of(CHAT, messages=HELLO, **both)).max_new_tokens == 3


def test_null_keys_of_a_message_and_further_keys_of_a_part_are_ignored():
    part = {"type": "text", "text": "hello", "cache_control": {}}
    message = {"role": "user", "content": [part], "name": None, "tool_calls": None}
    prompt = prompt_of(line_of(CHAT, messages=[message]))
    assert prompt.contents == (({"role": "user", "content": "hello"},),)


def test_an_answer_of_another_server_is_a_message():
    """OpenAI and vLLM add keys to an answer, which ask for nothing in a history."""
    answer = {
        "role": "assistant",
        "content": "hello",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": [],
        "reasoning": None,
        "reasoning_content": "",
    }
    prompt = prompt_of(line_of(CHAT, messages=[*HELLO, answer, *HELLO]))
    said = {"role": "assistant", "content": "hello"}
    assert prompt.contents == ((*HELLO, said, *HELLO),)


def test_a_body_is_parsed_without_its_line():
    body = ChatBody.parse({"messages": HELLO, "top_p": 1, "stream": False})
    assert body.asked().contents == (tuple(HELLO),)
    with pytest.raises(
        RequestError, match=r"^messages\[0\]: found 1, expected an object"
    ):
        ChatBody.parse({"messages": [1]})
    with pytest.raises(RequestError, match=r"^top_logprobs: found without logprobs"):
        ChatBody.parse({"messages": HELLO, "top_logprobs": 1})


def test_a_misspelt_key_is_reported_before_the_missing_one():
    with pytest.raises(RequestError, match=r"^body\.mesages: unknown key"):
        prompt_of(line_of(CHAT, mesages=HELLO))


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
            "body.messages[0].tool_calls[0]: found 1, expected an object with id, type",
        ),
        (
            line_of(CHAT, messages=[{**HELLO[0], "refusal": "no"}]),
            "body.messages[0].refusal: found 'no', expected '': nothing else is supp",
        ),
        (
            line_of(CHAT, messages=[{**HELLO[0], "audio": {"id": "a"}}]),
            "body.messages[0].audio: unknown key; expected one of role, content, name",
        ),
        (
            line_of(
                CHAT,
                messages=[{"role": "user", "content": [{"type": "image_url"}]}],
            ),
            "body.messages[0].content[0]: found {'type': 'image_url'}, expected",
        ),
        (line_of(TEXT, prompt=["a", 1]), "body.prompt: found a list of several kinds"),
        (line_of(TEXT, prompt=[[1], 1]), "body.prompt: found a list of several kinds"),
        (line_of(TEXT, prompt=[[1], [1.5]]), "body.prompt[0]: found 1.5, expected a t"),
        (line_of(TEXT, prompt={}), "body.prompt: found {}, expected a text or a list"),
        (line_of(TEXT, prompt=["a", ""]), "the prompt is empty: expected at least one"),
        (line_of(TEXT, prompt=[[]]), "the prompt is empty: expected at least one"),
        (line_of(TEXT, prompt=""), "the prompt is empty: expected at least one"),
        (line_of(TEXT, prompt=[]), "the prompt is empty: expected at least one"),
        (line_of(TEXT, prompt="a", messages=HELLO), "body.messages: unknown key"),
        (line_of(TEXT, prompt="a", seed=True), "body.seed: found True, expected a"),
        (line_of(TEXT, prompt="a", seed=1.5), "body.seed: found 1.5, expected a whole"),
        (line_of(TEXT, prompt="a", top_p=True), "body.top_p: found True, expected a n"),
        (line_of(TEXT, prompt="a", model=1), "body.model: found 1, expected a text"),
        (line_of(TEXT, prompt="a", stop={}), "body.stop: found {}, expected a text or"),
        (line_of(TEXT, prompt=[1, True]), "body.prompt[1]: found True, expected a tok"),
        (line_of(TEXT, prompt=[1.5]), "body.prompt[0]: found 1.5, expected a token id"),
        (line_of(TEXT, prompt=None), "body.prompt: missing, expected a text or a li"),
        (line_of(TEXT, prompt="a", top_logprobs=1), "body.top_logprobs: unknown key"),
        (line_of(TEXT, prompt="a", unheard_of=0), "body.unheard_of: unknown key"),
        (
            line_of(TEXT, prompt="a", tool_choice="any"),
            "body.tool_choice: found 'any', expected 'none' or 'auto': nothing else",
        ),
        ({"url": None, "body": {}}, "url: missing, expected /v1/chat/completions or"),
        ({"url": CHAT, "body": None}, "body: missing, expected an object"),
        ({"url": CHAT, "method": None}, 'method: found None, expected "POST"'),
        (
            line_of(CHAT, messages=[None]),
            "body.messages[0]: found None, expected an object with role and content",
        ),
        (
            line_of(CHAT, messages=[{"role": "user", "content": None}]),
            "body.messages[0].content: missing, expected a text",
        ),
        (
            line_of(CHAT, messages=[{"role": "user", "content": ["a"]}]),
            'body.messages[0].content[0]: found \'a\', expected {"type": "text"',
        ),
        (line_of(TEXT, prompt="a", max_tokens=0), "max_tokens is 0, expected"),
        (line_of(TEXT, prompt="a", stop=[""]), "stop: found [''], expected texts"),
        (line_of(TEXT, prompt="a", temperature=-1), "temperature is -1, expected"),
        (line_of(TEXT, prompt="a", n=0), "n is 0, expected 1 to 128"),
        (line_of(TEXT, prompt="a", n=True), "body.n: found True, expected a whole"),
        (
            line_of(TEXT, prompt="a", seed=2**63),
            "seed is 9223372036854775808, expected -9223372036854775808 to 9223372",
        ),
        (
            line_of(TEXT, prompt="a", top_k=2**31),
            "top_k is 2147483648, expected 0 (all tokens) to 2147483647",
        ),
        (
            line_of(TEXT, prompt="a", temperature=10**400),
            f"temperature is 1{'0' * 17}...{'0' * 19}, expected 0 to 3.4e+38",
        ),
        (
            line_of(TEXT, prompt="a", logprobs=21),
            "logprobs: found 21 likeliest tokens, expected 0 to 20",
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
            "body.stream: found True, expected False: results of a batch are written",
        ),
        (
            line_of(TEXT, prompt="a", logit_bias={"x": 2}),
            "logit_bias: found 'x', expected token ids such as",
        ),
        (
            line_of(TEXT, prompt="a", logit_bias={"1": 101}),
            "logit_bias of token 1 is 101.0, expected -100 to 100",
        ),
        (
            line_of(TEXT, prompt="a", presence_penalty=3),
            "presence_penalty is 3, expected -2 to 2",
        ),
        (
            line_of(TEXT, prompt="a", repetition_penalty=0),
            "repetition_penalty is 0, expected above 0",
        ),
        (
            line_of(TEXT, prompt="a", echo=True, logprobs=1),
            "body.echo: found True with logprobs, expected one of them",
        ),
        (
            line_of(CHAT, messages=HELLO, tool_choice="required"),
            'body.tool_choice: found \'required\', expected "none", "auto", "required" w',
        ),
        (
            line_of(CHAT, messages=HELLO, tools=[WEATHER], tool_choice="any"),
            "body.tool_choice: found 'any', expected \"none\"",
        ),
        (
            line_of(
                CHAT,
                messages=HELLO,
                tools=[WEATHER],
                tool_choice={"type": "function", "function": {"name": "time"}},
            ),
            "body.tool_choice: found {",
        ),
        (
            line_of(CHAT, messages=HELLO, tools=[{}], tool_choice="required"),
            'body.tools: found {}, expected {"type": "function"',
        ),
        (
            line_of(
                CHAT,
                messages=HELLO,
                tools=[WEATHER],
                tool_choice="required",
                response_format={"type": "json_object"},
            ),
            "body.tool_choice: found with a response format, expected one of them",
        ),
        (
            line_of(CHAT, messages=HELLO, response_format={"type": "json_schema"}),
            "body.response_format",
        ),
        (
            line_of(CHAT, messages=HELLO, max_tokens=1, max_completion_tokens=2),
            "body.max_tokens: found 1 and max_completion_tokens 2, expected one of",
        ),
    ],
)
def test_what_cannot_be_served_as_it_is_meant_is_refused_by_name(values, message):
    with pytest.raises(RequestError, match=f"^{re.escape(message)}"):
        prompt_of(values)
