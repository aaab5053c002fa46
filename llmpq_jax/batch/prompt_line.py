"""One line of a file of prompts: a plain JSON object, or a line of OpenAI's batch files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from llmpq_jax.batch.openai import is_batch_line, parse_batch_line
from llmpq_jax.batch.prompt import Form, Line, Prompt, PromptDefaults
from llmpq_jax.batch.request_fields import (
    Asked,
    RequestFields,
    WholeNumber,
    complaint,
    named_limit,
    short_repr,
)
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.request import MAX_TOP_LOGPROBS, check_max_new_tokens

# OpenAI's maximum too.
MAX_CHOICES = 128


class PlainLine(RequestFields):
    """A plain line: a prompt and its options."""

    form: ClassVar[Form] = "plain"

    prompt: str = Field(description="a text")
    custom_id: str | None = Field(None, description="a text")
    max_new_tokens: WholeNumber | None = Field(None, description="a whole number")

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_null(cls, value: Any) -> Any:
        # Unlike in OpenAI's bodies, a null is a mistake here.
        if value is None:
            msg = "null is no value"
            raise ValueError(msg)
        return value

    @model_validator(mode="after")
    def _check_one_limit(self) -> Self:
        if self.max_tokens is not None and self.max_new_tokens is not None:
            text = "found with max_new_tokens, expected one of them: they mean the same"
            raise complaint(text, at=".max_tokens")
        return self

    def asked(self) -> Asked:
        """Returns what is asked for; `max_tokens` is the other name of its limit."""
        limit = named_limit(
            max_new_tokens=self.max_new_tokens, max_tokens=self.max_tokens
        )
        return Asked(contents=(self.prompt,), max_new_tokens=limit)


def parse_json_line(line: str) -> Mapping[str, Any]:
    """Returns the JSON object of a line.

    Raises:
        RequestError: If the line is not a JSON object; the message lacks its location.
    """
    try:
        values = json.loads(line)
        if "\\u" in line:
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as reason:
        half = ascii(reason.object[reason.start])
        msg = f"holds {half}, half of a character: expected both halves, or the character itself"
        raise RequestError(msg) from reason
    except (ValueError, RecursionError) as reason:
        msg = f'is not JSON ({reason}): expected {{"prompt": "…"}}'
        raise RequestError(msg) from reason
    if not isinstance(values, dict):
        msg = f'found a {type(values).__name__}, expected an object such as {{"prompt": "…"}}'
        raise RequestError(msg)
    return values


def parse_request(values: Mapping[str, Any]) -> RequestFields:
    """Returns the request of a line, in whichever form the line is.

    Raises:
        RequestError: If a key or its type is not supported; the message lacks the
            line's location.
    """
    if is_batch_line(values):
        return parse_batch_line(values)
    if "prompt" not in values:
        msg = 'prompt: missing, expected a text as in {"prompt": "…"}'
        raise RequestError(msg)
    return PlainLine.parse(values)


def make_prompt(request: RequestFields, defaults: PromptDefaults, line: Line) -> Prompt:
    """Returns a request as the prompt of a line, its ranges checked.

    Raises:
        RequestError: If a value is out of range; the message lacks the line's location.
    """
    asked = request.asked()
    if not (asked.contents and all(asked.contents)):
        msg = "the prompt is empty: expected at least one character"
        raise RequestError(msg)
    stop = defaults.stop if request.stop is None else request.stop
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) and text for text in stop):
        msg = f"stop: found {short_repr(list(stop))}, expected texts of at least one character"
        raise RequestError(msg)
    max_new_tokens = asked.max_new_tokens
    if max_new_tokens is None:
        max_new_tokens = defaults.max_new_tokens
    if max_new_tokens is not None:
        check_max_new_tokens(max_new_tokens)
    num_choices = asked.num_choices
    if not 1 <= num_choices <= MAX_CHOICES:
        msg = f"n is {num_choices}, expected 1 to {MAX_CHOICES}"
        raise RequestError(msg)
    if not 0 <= (asked.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
        msg = f"logprobs: found {asked.top_logprobs} likeliest tokens, expected 0 to {MAX_TOP_LOGPROBS}"
        raise RequestError(msg)
    given = request.model_dump(
        include={"temperature", "top_k", "top_p", "min_p", "seed"}, exclude_none=True
    )
    sampling = replace(defaults.sampling, **given)
    values: dict[str, Any] = asdict(line) | asked._asdict()
    values["max_new_tokens"] = max_new_tokens
    values["template_arguments"] = dict(asked.template_arguments)
    return Prompt(
        **values,
        form=request.form,
        sampling=sampling,
        stop=stop,
        ignores_eos=request.ignore_eos,
        logit_changes=request.logit_changes(),
    )
