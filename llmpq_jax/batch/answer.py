"""What an answer of a chat model consists of: its reasoning, its content, its calls of tools."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from llmpq_jax.files import json_text
from llmpq_jax.runtime.generated_text import num_begun

# How a model writes calls, by its chat template: Hermes and Qwen as JSON in a tag, Qwen3-Coder
# as tags in a tag, Llama 3 as JSON alone.
ToolForm = Literal["hermes", "qwen3_coder", "llama3"]
Channel = Literal["reasoning", "content"]

_OPEN_THINK, _CLOSE_THINK, _OPEN_CALL = "<think>", "</think>", "<tool_call>"
_CALL_TAG = re.compile(r"\s*</?tool_call>\s*")
# Values end at the next tag of their own, and may hold other ones.
_FUNCTION = re.compile(
    r"<function=([^>\n]+)>((?:\s*<parameter=[^>\n]+>.*?(?:</parameter>|\Z))*)"
    r"\s*(?:</function>|\Z)",
    re.DOTALL,
)
_PARAMETER = re.compile(
    r"<parameter=([^>\n]+)>\n?(.*?)\n?(?:</parameter>|\Z)", re.DOTALL
)


class Call(NamedTuple):
    """A call of a tool.

    Attributes:
        name: Name of the tool.
        arguments: Arguments of the call, by name.
    """

    name: str
    arguments: dict[str, Any]

    def values(self) -> dict[str, Any]:
        """Returns the call in OpenAI's form, with a new name."""
        arguments = json_text(self.arguments, ensure_ascii=False)
        return {
            "id": f"call_{uuid.uuid4().hex}",
            "type": "function",
            "function": {"name": self.name, "arguments": arguments},
        }


def tool_form_of(chat_template: str | None) -> ToolForm | None:
    """Returns how a model with a chat template writes calls; None if that is not known."""
    template = chat_template or ""
    if "<function=" in template:
        return "qwen3_coder"
    if _OPEN_CALL in template:
        return "hermes"
    if "<|python_tag|>" in template or '"parameters"' in template:
        return "llama3"
    return None


class AnswerSplitter:
    """Splits an answer that comes in parts; what may be the start of a tag is held back."""

    def __init__(
        self,
        prompt: str,
        tool_form: ToolForm | None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Takes the text of the prompt, which may begin the reasoning.

        Calls are parsed if there is a form of them. Of the tools, the schemas say which
        parameters are texts where the form does not.
        """
        self._tool_form: ToolForm | None = tool_form
        self._tools = tools
        self._channel: Channel = "content"
        self._is_start = True
        if prompt.rstrip().endswith(_OPEN_THINK):
            self._channel, self._is_start = "reasoning", False
        self._held = ""
        self._skips_newlines = False
        self._has_calls = False

    def add(self, text: str) -> Iterator[tuple[Channel, str]]:
        """Yields the parts that a further text settles, none of them empty."""
        self._held += text
        while part := self._next():
            yield part

    def end(self) -> tuple[list[tuple[Channel, str]], list[Call]]:
        """Returns what was held back to the end, and the calls."""
        text = self._held
        calls: list[Call] = []
        if self._has_calls or self._may_be_json():
            calls = _calls(text, self._tool_form, self._tools)
            if calls:
                text = ""
        return ([(self._channel, text)] if text else []), calls

    def _next(self) -> tuple[Channel, str] | None:
        """Takes the next settled part from what is held."""
        if self._skips_newlines:
            self._held = self._held.lstrip("\n")
        if self._has_calls or not self._held or self._may_be_json():
            return None
        self._skips_newlines = False
        if self._is_start and not self._take_start():
            return None
        tag = _CLOSE_THINK if self._channel == "reasoning" else self._call_tag()
        before, found, after = (
            self._held.partition(tag) if tag else (self._held, "", "")
        )
        channel = self._channel
        if found and channel == "reasoning":
            self._channel, self._held = "content", after
            self._skips_newlines = True
            return (channel, before.rstrip("\n")) if before.strip() else self._next()
        if found:
            self._has_calls, self._held = True, found + after
            return (channel, before.rstrip("\n")) if before.strip() else None
        settled = len(before) - _num_held(before, tag)
        text, self._held = before[:settled], before[settled:]
        return (channel, text) if text else None

    def _take_start(self) -> bool:
        """Decides whether the answer begins with reasoning, once that is known."""
        stripped = self._held.lstrip()
        if len(stripped) < len(_OPEN_THINK) and _OPEN_THINK.startswith(stripped):
            return False
        self._is_start = False
        if stripped.startswith(_OPEN_THINK):
            self._channel = "reasoning"
            self._held = stripped.removeprefix(_OPEN_THINK).lstrip("\n")
            self._skips_newlines = not self._held
        return bool(self._held)

    def _call_tag(self) -> str:
        return _OPEN_CALL if self._tool_form in ("hermes", "qwen3_coder") else ""

    def _may_be_json(self) -> bool:
        """Whether the answer may be a call of Llama 3's, which is JSON from the start."""
        is_start = self._is_start and self._tool_form == "llama3"
        return is_start and self._held.lstrip().startswith("{")


def _num_held(text: str, tag: str) -> int:
    """Returns the characters at a text's end that may belong to a tag, with lines before it."""
    if not tag:
        return 0
    before = text[: len(text) - num_begun(text, tag)]
    return len(text) - len(before.rstrip("\n"))


def _calls(
    text: str, tool_form: ToolForm | None, tools: Sequence[Mapping[str, Any]]
) -> list[Call]:
    """Returns the calls in a text; none if it is not what it should be."""
    match tool_form:
        case "hermes":
            found = [_json_call(each) for each in _json_values(text, _OPEN_CALL)]
        case "qwen3_coder":
            found = list(_tagged_calls(text, _text_parameters(tools)))
        case "llama3":
            found = [_json_call(each) for each in _json_values(f";{text}", ";")]
        case None:
            found = []
    calls = [each for each in found if each is not None]
    return calls if len(calls) == len(found) else []


def _json_values(text: str, opening: str) -> Iterator[Any]:
    """Yields the JSON after each opening, which its strings may hold too; None if it is none."""
    decoder, place = json.JSONDecoder(), 0
    while (found := text.find(opening, place)) >= 0:
        place = found + len(opening)
        place += len(text[place:]) - len(text[place:].lstrip())
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            value = None
        yield value


def _text_parameters(tools: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """Returns the names of functions' parameters whose schema says that they are texts."""
    found: set[tuple[str, str]] = set()
    for tool in tools:
        with suppress(AttributeError, KeyError, TypeError):
            function = tool["function"]
            for name, schema in function["parameters"]["properties"].items():
                if schema.get("type") == "string":
                    found.add((function["name"], name))
    return found


def _json_call(values: Any) -> Call | None:
    try:
        arguments = values.get("arguments", values.get("parameters", {}))
        name = values["name"]
    except (KeyError, AttributeError):
        return None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    is_call = isinstance(name, str) and isinstance(arguments, dict)
    return Call(name, arguments) if is_call else None


def _tagged_calls(
    text: str, texts: Collection[tuple[str, str]]
) -> Iterator[Call | None]:
    """Yields calls with parameters in tags, and None if there is anything else."""
    if _CALL_TAG.sub("", _FUNCTION.sub("", text)):
        yield None
    for function, parameters in _FUNCTION.findall(text):
        name, arguments = function.strip(), {}
        for key, value in _PARAMETER.findall(parameters):
            arguments[key] = value
            if (name, key) not in texts:
                with suppress(ValueError, RecursionError):
                    arguments[key] = json.loads(value)
        yield Call(name, arguments)
