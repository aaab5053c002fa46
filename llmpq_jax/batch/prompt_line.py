"""One line of a file of prompts: as people write it, or as OpenAI's batches have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmpq_jax.batch.openai import is_openai_line, openai_values
from llmpq_jax.batch.prompt import Choices, Form, Prompt
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.request import MAX_TOP_LOGPROBS

# The type JSON must have, and what to call it.
_KEYS: dict[str, tuple[tuple[type, ...], str]] = {
    "prompt": ((str,), "a text"),
    "custom_id": ((str,), "a text"),
    "max_new_tokens": ((int,), "a whole number"),
    "max_tokens": ((int,), "a whole number"),
    "temperature": ((int, float), "a number"),
    "top_k": ((int,), "a whole number"),
    "top_p": ((int, float), "a number"),
    "seed": ((int,), "a whole number"),
    "stop": ((str, list), "a text or a list of them"),
}
# As many continuations of one prompt as OpenAI's take.
_MAX_CHOICES = 128
_SAMPLING_KEYS = ("temperature", "top_k", "top_p", "seed")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedLine:
    """A line that is JSON.

    Attributes:
        values: What it says.
        custom_id: What it calls itself; absent where it does not.
    """

    values: Mapping[str, Any]
    custom_id: str | None = None


def parse_line(line: str) -> ParsedLine:
    """Reads a line as an object of JSON, and its name.

    Raises:
        RequestError: It is none; the message lacks where it stands.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as reason:
        msg = f'is not JSON ({reason}): expected {{"prompt": "…"}}'
        raise RequestError(msg) from reason
    if not isinstance(values, dict):
        msg = f'found a {type(values).__name__}, expected an object such as {{"prompt": "…"}}'
        raise RequestError(msg)
    if "\\u" in line:
        try:
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as reason:
            half = ascii(reason.object[reason.start])
            msg = f"holds {half}, half of a character: expected both halves, or the character itself"
            raise RequestError(msg) from reason
    custom_id = values.get("custom_id")
    if custom_id is not None and not isinstance(custom_id, str):
        msg = f"custom_id: found {custom_id!r}, expected a text"
        raise RequestError(msg)
    return ParsedLine(values=values, custom_id=custom_id)


def prompt_of_line(
    line: ParsedLine, choices: Choices, *, number: int, custom_id: str, where: str
) -> Prompt:
    """Makes a prompt of a line.

    Args:
        line: Of either form.
        choices: For what the line does not say.
        number: Of the line.
        custom_id: To be its name.
        where: It stands.

    Raises:
        RequestError: It asks for what cannot be served; the message lacks where.
    """
    if is_openai_line(line.values):
        form, values = openai_values(line.values)
    else:
        form, values = "plain", _plain_values(line.values)
    return prompt_of_values(
        values,
        choices,
        number=number,
        custom_id=custom_id,
        where=where,
        form=form,
    )


def prompt_of_values(
    values: Mapping[str, Any],
    choices: Choices,
    *,
    number: int,
    custom_id: str,
    where: str,
    form: Form = "plain",
) -> Prompt:
    """Makes a prompt of values whose types have been checked.

    Raises:
        RequestError: A value is out of its range; the message lacks where it stands.
    """
    if not values["prompt"]:
        msg = "the prompt is empty: expected at least one character"
        raise RequestError(msg)
    stop = values.get("stop", choices.stop)
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) and text for text in stop):
        msg = f"stop: found {list(stop)}, expected texts of at least one character"
        raise RequestError(msg)
    max_new_tokens = values.get(
        "max_new_tokens", values.get("max_tokens", choices.max_new_tokens)
    )
    if max_new_tokens is not None and max_new_tokens < 1:
        msg = f"max_new_tokens is {max_new_tokens}, expected at least 1"
        raise RequestError(msg)
    num_choices = values.get("n", 1)
    if not 1 <= num_choices <= _MAX_CHOICES:
        msg = f"n is {num_choices}, expected 1 to {_MAX_CHOICES}"
        raise RequestError(msg)
    top_logprobs = values.get("top_logprobs")
    if not 0 <= (top_logprobs or 0) <= MAX_TOP_LOGPROBS:
        msg = f"logprobs: {top_logprobs} of the likeliest are asked for, expected 0 to {MAX_TOP_LOGPROBS}"
        raise RequestError(msg)
    chosen = {key: values[key] for key in _SAMPLING_KEYS if key in values}
    sampling = replace(choices.sampling, **chosen)
    # The last of them must have a seed too.
    replace(sampling, seed=sampling.seed + num_choices - 1)
    return Prompt(
        number=number,
        custom_id=custom_id,
        content=values["prompt"],
        where=where,
        form=form,
        model=values.get("model"),
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop=stop,
        num_choices=num_choices,
        top_logprobs=top_logprobs,
    )


def _plain_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    if "prompt" not in values:
        msg = 'prompt: missing, expected a text as in {"prompt": "…"}'
        raise RequestError(msg)
    for key, value in values.items():
        if key not in _KEYS:
            msg = f"{key}: unknown key; expected one of {', '.join(_KEYS)}"
            raise RequestError(msg)
        kinds, what = _KEYS[key]
        # JSON's true and false are Python's int too.
        if not isinstance(value, kinds) or isinstance(value, bool):
            msg = f"{key}: found {value!r}, expected {what}"
            raise RequestError(msg)
    if "max_tokens" in values and "max_new_tokens" in values:
        msg = "max_tokens and max_new_tokens mean the same: expected one"
        raise RequestError(msg)
    return values
