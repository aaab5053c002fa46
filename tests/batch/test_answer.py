"""Answers of chat models: the same parts, however the text is cut when it comes."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch.answer import AnswerSplitter, Call, ToolForm, tool_form_of

HERMES = (
    'Let me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n'
    '</tool_call>\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
)
CODER = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)
LLAMA = '{"name": "weather", "parameters": {"city": "Oslo"}}'
OSLO = Call("weather", {"city": "Oslo"})
# Prompt, form of calls, answer; then reasoning, content and calls.
CASES: list[tuple[str, ToolForm | None, str, str, str, list[Call]]] = [
    ("", None, "Just a text < think", "", "Just a text < think", []),
    ("", None, "<think>\nwhy\n</think>\n\nSo.", "why", "So.", []),
    ("<think>\n", None, "why</think>So.", "why", "So.", []),
    ("<think>\n", None, "cut while it rea", "cut while it rea", "", []),
    ("", None, "a <think> later", "", "a <think> later", []),
    ("", "hermes", HERMES, "", "Let me see.", [OSLO, Call("time", {})]),
    (
        "<think>",
        "hermes",
        "hm</think>" + HERMES,
        "hm",
        "Let me see.",
        [OSLO, Call("time", {})],
    ),
    ("", "hermes", "<tool_call>{broken", "", "<tool_call>{broken", []),
    ("", "hermes", "no call <tool", "", "no call <tool", []),
    ("", None, HERMES, "", HERMES, []),
    ("", "qwen3_coder", CODER, "", "", [Call("weather", {"city": "Oslo", "days": 3})]),
    ("", "llama3", LLAMA, "", "", [OSLO]),
    ("", "llama3", LLAMA + "; " + LLAMA, "", "", [OSLO, OSLO]),
    (
        "",
        "hermes",
        '<tool_call>{"name": "say", "arguments": {"a": "</tool_call>; "}}</tool_call>',
        "",
        "",
        [Call("say", {"a": "</tool_call>; "})],
    ),
    (
        "",
        "llama3",
        '{"name": "say", "parameters": {"a": "x; y"}}',
        "",
        "",
        [Call("say", {"a": "x; y"})],
    ),
    ("", "llama3", '{"not": "a call"}', "", '{"not": "a call"}', []),
    ("", "llama3", "a text", "", "a text", []),
]


@given(st.sampled_from(CASES), st.lists(st.integers(0, 200), max_size=12))
def test_parts_are_the_same_wherever_the_text_is_cut(
    case: tuple[str, ToolForm | None, str, str, str, list[Call]], cuts: list[int]
) -> None:
    prompt, form, text, reasoning, content, calls = case
    splitter = AnswerSplitter(prompt, form)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    found = {"reasoning": "", "content": ""}
    parts = [
        part
        for start, end in itertools.pairwise(places)
        for part in splitter.add(text[start:end])
    ]
    rest, found_calls = splitter.end()
    for channel, part in (*parts, *rest):
        assert part
        found[channel] += part
    assert found == {"reasoning": reasoning, "content": content}
    assert found_calls == calls


def test_a_form_is_known_by_the_template() -> None:
    assert tool_form_of("… <tool_call> …") == "hermes"
    assert tool_form_of("… <tool_call>\n<function=name> …") == "qwen3_coder"
    assert tool_form_of("… <|python_tag|> …") == "llama3"
    assert tool_form_of("{{ messages }}") is None
    assert tool_form_of(None) is None


def test_parameters_that_are_texts_stay_texts() -> None:
    properties = {"zip": {"type": "string"}, "days": {"type": "integer"}}
    function = {"name": "weather", "parameters": {"properties": properties}}
    splitter = AnswerSplitter("", "qwen3_coder", tools=[{"function": function}, {}])
    text = CODER.replace("city", "zip").replace("Oslo", "0150")
    assert list(splitter.add(text)) == []
    _, calls = splitter.end()
    assert calls == [Call("weather", {"zip": "0150", "days": 3})]
