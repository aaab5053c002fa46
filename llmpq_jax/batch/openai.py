"""Lines of OpenAI's batch files: {"custom_id", "method", "url", "body"}.

What a body may say is what is served exactly as it is meant there. A key that asks for
something else is refused by name unless its value is the one that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpq_jax.batch.prompt import Form
from llmpq_jax.errors import RequestError

_FORMS: dict[str, Form] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
}
_LINE_KEYS = ("custom_id", "method", "url", "body")

# The type JSON must have, and what to call it.
_Kinds = dict[str, tuple[tuple[type, ...], str]]
_BOTH: _Kinds = {
    "model": ((str,), "a text"),
    "n": ((int,), "a whole number"),
    "max_tokens": ((int,), "a whole number"),
    "temperature": ((int, float), "a number"),
    "top_k": ((int,), "a whole number"),
    "top_p": ((int, float), "a number"),
    "seed": ((int,), "a whole number"),
    "stop": ((str, list), "a text or a list of them"),
}
_KEYS: dict[Form, _Kinds] = {
    "chat": {
        "messages": ((list,), "a list of messages"),
        **_BOTH,
        "max_completion_tokens": ((int,), "a whole number"),
        "logprobs": ((bool,), "true or false"),
        "top_logprobs": ((int,), "a whole number"),
    },
    "completion": {
        "prompt": ((str, list), "a text or a list of token ids"),
        **_BOTH,
        "logprobs": ((int,), "a whole number"),
    },
}
# Say nothing of the answer.
_FOR_THE_BOOKS = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# The values at which these ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "stream": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
}


def is_openai_line(values: Mapping[str, Any]) -> bool:
    """Whether a line means to be one of OpenAI's."""
    return any(key in values for key in ("method", "url", "body"))


def openai_values(line: Mapping[str, Any]) -> tuple[Form, dict[str, Any]]:
    """Returns which endpoint a line asks, and its body in a plain line's words.

    Raises:
        RequestError: It is no such line, or asks for what cannot be served; the message
            lacks where it stands.
    """
    for key in line:
        if key not in _LINE_KEYS:
            msg = f"{key}: unknown key; expected one of {', '.join(_LINE_KEYS)}"
            raise RequestError(msg)
    if line.get("method", "POST") != "POST":
        msg = f'method: found {line["method"]!r}, expected "POST"'
        raise RequestError(msg)
    form = _FORMS.get(url) if isinstance(url := line.get("url"), str) else None
    if form is None:
        found = "missing" if url is None else f"found {url!r}"
        msg = f"url: {found}, expected {' or '.join(_FORMS)}"
        raise RequestError(msg)
    body = line.get("body")
    if not isinstance(body, dict):
        found = "missing" if body is None else f"found {body!r}"
        msg = f"body: {found}, expected an object"
        raise RequestError(msg)
    return form, _body_values(form, body)


def _body_values(form: Form, body: Mapping[str, Any]) -> dict[str, Any]:
    kinds_of = _KEYS[form]
    values = {}
    for key, value in body.items():
        # There null is as good as absent.
        if value is None or key in _FOR_THE_BOOKS:
            continue
        if key in _NOTHING:
            if value not in _NOTHING[key]:
                wanted = " or ".join(repr(each) for each in _NOTHING[key])
                msg = f"body.{key}: found {value!r}, expected {wanted or 'none'}: nothing else is supported"
                raise RequestError(msg)
            continue
        if key not in kinds_of:
            msg = f"body.{key}: unknown key; expected one of {', '.join(kinds_of)}"
            raise RequestError(msg)
        kinds, what = kinds_of[key]
        # JSON's true and false are Python's int too.
        if not isinstance(value, kinds) or (type(value) is bool) != (kinds == (bool,)):
            msg = f"body.{key}: found {value!r}, expected {what}"
            raise RequestError(msg)
        values[key] = value
    most = values.pop("max_completion_tokens", None)
    if most is not None:
        if values.get("max_tokens", most) != most:
            msg = f"body.max_tokens is {values['max_tokens']} and body.max_completion_tokens {most}: expected one of them"
            raise RequestError(msg)
        values["max_tokens"] = most
    _join_logprobs(form, values)
    content = "messages" if form == "chat" else "prompt"
    if content not in values:
        msg = f"body.{content}: missing, expected {kinds_of[content][1]}"
        raise RequestError(msg)
    given = values.pop(content)
    values["prompt"] = _messages(given) if form == "chat" else _text_or_tokens(given)
    return values


def _join_logprobs(form: Form, values: dict[str, Any]) -> None:
    """Says in one word what the two endpoints ask for in theirs."""
    asked = values.pop("logprobs", None)
    if form == "completion":
        if asked is not None:
            values["top_logprobs"] = asked
    elif asked:
        values.setdefault("top_logprobs", 0)
    elif "top_logprobs" in values:
        msg = 'body.top_logprobs: found without logprobs, expected "logprobs": true beside it'
        raise RequestError(msg)


def _text_or_tokens(prompt: str | list[Any]) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    if not all(type(token_id) is int for token_id in prompt):
        msg = "body.prompt: found a list that is not of token ids, expected one text: put several on lines of their own"
        raise RequestError(msg)
    return tuple(prompt)


def _messages(messages: list[Any]) -> tuple[dict[str, str], ...]:
    if not messages:
        msg = "body.messages: found none, expected at least one"
        raise RequestError(msg)
    return tuple(
        _message(message, where=f"body.messages[{index}]")
        for index, message in enumerate(messages)
    )


def _message(message: Any, *, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        msg = f"{where}: found {message!r}, expected an object with role and content"
        raise RequestError(msg)
    values = {key: value for key, value in message.items() if value is not None}
    for key in values:
        if key not in {"role", "content", "name"}:
            msg = f"{where}.{key}: unknown key; expected role, content, name"
            raise RequestError(msg)
    if isinstance(values.get("content"), list):
        values["content"] = "".join(
            _part(part, where=f"{where}.content[{index}]")
            for index, part in enumerate(values["content"])
        )
    for key in ("role", "content"):
        if key not in values:
            msg = f"{where}.{key}: missing, expected a text"
            raise RequestError(msg)
    for key, value in values.items():
        if not isinstance(value, str):
            msg = f"{where}.{key}: found {value!r}, expected a text"
            raise RequestError(msg)
    return values


def _part(part: Any, *, where: str) -> str:
    if (
        not isinstance(part, dict)
        or part.get("type") != "text"
        or not isinstance(part.get("text"), str)
    ):
        msg = f'{where}: found {part!r}, expected {{"type": "text", "text": "…"}}: nothing else is supported'
        raise RequestError(msg)
    return part["text"]
