"""OpenAI's own client against a live server."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Sampling
from tests.server.conftest import NAME


def test_models_are_listed(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == NAME
    assert client.models.retrieve(NAME).id == NAME
    assert model.model_dump()["max_model_len"] == 256


def test_a_completion_is_that_of_the_pipeline(
    client: openai.OpenAI, pipeline: Pipeline
) -> None:
    answer = client.completions.create(
        model=NAME, prompt="abc", max_tokens=12, temperature=0
    )
    with Pipeline.load(pipeline.strategy) as alone:
        (expected,) = alone.generate(["abc"], max_new_tokens=12)
    (choice,) = answer.choices
    assert choice.text == expected.text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == expected.num_prompt_tokens
    assert answer.usage.completion_tokens == len(expected.token_ids)
    assert choice.finish_reason == (
        "length" if len(expected.token_ids) == 12 else "stop"
    )


def test_several_prompts_and_choices_come_in_order(
    client: openai.OpenAI, pipeline: Pipeline
) -> None:
    answer = client.completions.create(
        model=NAME, prompt=["ab", "cd"], n=2, seed=7, max_tokens=6
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    with Pipeline.load(pipeline.strategy) as alone:
        expected = alone.generate(
            ["ab", "ab", "cd", "cd"],
            max_new_tokens=6,
            sampling=[Sampling(temperature=1.0, seed=seed) for seed in (7, 8, 7, 8)],
        )
    assert [choice.text for choice in answer.choices] == [
        each.text for each in expected
    ]


def test_16_tokens_are_the_default_and_a_seed_repeats(client: openai.OpenAI) -> None:
    texts = [
        client.completions.create(
            model=NAME, prompt="q", seed=3, extra_body={"ignore_eos": True}
        )
        for _ in range(2)
    ]
    assert texts[0].choices[0].text == texts[1].choices[0].text
    assert texts[0].usage is not None
    assert texts[0].usage.completion_tokens == 16


@pytest.mark.parametrize("stop", [None, ["e", "longer than it"]])
def test_a_stream_is_the_whole_answer_in_parts(
    client: openai.OpenAI, stop: list[str] | None
) -> None:
    asked: dict[str, Any] = {
        "model": NAME,
        "prompt": "some text",
        "max_tokens": 40,
        "seed": 5,
        "stop": stop,
    }
    whole = client.completions.create(**asked)
    parts = list(
        client.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
    )
    assert len({part.id for part in parts}) == 1
    assert parts[-1].choices == []
    assert parts[-1].usage == whole.usage
    choices = [part.choices[0] for part in parts[:-1]]
    assert "".join(choice.text for choice in choices) == whole.choices[0].text
    reasons = [choice.finish_reason for choice in choices]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]


def test_a_chat_is_streamed_with_several_choices(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 10,
        "n": 3,
        "seed": 2,
        "logprobs": True,
        "top_logprobs": 2,
    }
    whole = client.chat.completions.create(**asked)
    texts = [""] * 3
    tokens: list[list[str]] = [[], [], []]
    for part in client.chat.completions.create(**asked, stream=True):
        (choice,) = part.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.logprobs is not None and choice.logprobs.content:
            tokens[choice.index] += [each.token for each in choice.logprobs.content]
    for index, choice in enumerate(whole.choices):
        assert choice.message.role == "assistant"
        assert texts[index] == choice.message.content
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        expected = [each.token for each in choice.logprobs.content]
        assert tokens[index] == expected
        assert "".join(expected) == choice.message.content


def test_a_conversation_with_tools_and_parts_goes_through_the_template(
    client: openai.OpenAI, pipeline: Pipeline
) -> None:
    call: dict[str, Any] = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
    }
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "warm?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "no"},
    ]
    answer = client.chat.completions.create(
        model=NAME,
        messages=messages,
        temperature=0,
        max_tokens=5,
        extra_body={"chat_template_kwargs": {"loud": True}},
    )
    text = "<user>warm?<assistant>[weather Oslo]<tool>no!<answer>"
    token_ids = pipeline.tokenizer.encode(text, adds_special_tokens=False)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(token_ids)


CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


@pytest.mark.parametrize("streams", [False, True])
def test_tools_are_called(client: openai.OpenAI, streams: bool) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": [{"role": "user", "content": "warm?"}],
        "tools": [tool],
        "max_tokens": 120,
        # The model is small and untrained: it has to be told what to say.
        "extra_body": {
            "structured_outputs": {"choice": [f"<think>hm</think>I see. {CALL}"]}
        },
    }
    if streams:
        content, reasoning, calls, reason = "", "", [], None
        for part in client.chat.completions.create(**asked, stream=True):
            (choice,) = part.choices
            content += choice.delta.content or ""
            reasoning += (choice.delta.model_extra or {}).get("reasoning_content", "")
            calls += choice.delta.tool_calls or []
            reason = choice.finish_reason
    else:
        (choice,) = client.chat.completions.create(**asked).choices
        message = choice.message
        content, calls = message.content, message.tool_calls or []
        reasoning = (message.model_extra or {})["reasoning_content"]
        reason = choice.finish_reason
    assert (content, reasoning, reason) == ("I see. ", "hm", "tool_calls")
    (call,) = calls
    assert call.function.name == "weather"
    assert call.function.arguments == '{"city": "Oslo"}'
    assert call.id.startswith("call_")


@pytest.mark.parametrize("streams", [False, True])
def test_an_answer_follows_a_schema(client: openai.OpenAI, streams: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": [{"role": "user", "content": "a number"}],
        "max_tokens": 40,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "number", "schema": schema, "strict": True},
        },
    }
    if streams:
        parts = client.chat.completions.create(**asked, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in parts)
    else:
        text = client.chat.completions.create(**asked).choices[0].message.content
    assert 0 <= json.loads(text or "")["n"] <= 99
    broken = {"name": "x", "schema": {"type": "strin"}}
    asked["response_format"] = {"type": "json_schema", "json_schema": broken}
    with pytest.raises(openai.BadRequestError, match="cannot be compiled"):
        client.chat.completions.create(**asked)


def test_errors_are_the_client_s_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="other", prompt="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=NAME, prompt="a", max_tokens=5000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model=NAME, prompt="a", extra_body={"best_of": 3})
    assert wrong.value.param == "best_of"


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "b"}}]
)
def test_tools_are_called_that_have_to_be(
    client: openai.OpenAI, streams: bool, choice: Any
) -> None:
    city = {"type": "string", "enum": ["Oslo", "Rome"]}
    parameters = {
        "type": "object",
        "properties": {"city": city},
        "required": ["city"],
        "additionalProperties": False,
    }
    tools: Any = [
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name in ("a", "b")
    ]
    asked: Any = {
        "model": NAME,
        "messages": [{"role": "user", "content": "?"}],
        "tools": tools,
        "tool_choice": choice,
        "temperature": 0,
        "max_tokens": 200,
    }
    if streams:
        calls, content, reason = [], "", None
        for chunk in client.chat.completions.create(**asked, stream=True):
            (part,) = chunk.choices
            content += part.delta.content or ""
            calls += part.delta.tool_calls or []
            reason = part.finish_reason or reason
    else:
        (answer,) = client.chat.completions.create(**asked).choices
        content, reason = answer.message.content or "", answer.finish_reason
        calls = answer.message.tool_calls or []
    names = {call.function.name for call in calls}
    if choice == "required":
        # One that has no end is cut within its grammar.
        assert names <= {"a", "b"}
        assert reason == ("tool_calls" if names else "length")
    else:
        assert [call.function.name for call in calls] == ["b"]
        (call,) = calls
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
        assert (content, reason) == ("", "tool_calls")
