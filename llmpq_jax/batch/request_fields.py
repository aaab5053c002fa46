"""Request fields that every form of a line has, as pydantic models with one-line errors."""

from __future__ import annotations

import reprlib
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from llmpq_jax.batch.prompt import ForcedCalls, Form, PromptContent
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.request import (
    Grammar,
    LogitChanges,
    check_max_new_tokens,
)

_PENALTIES = {"presence_penalty", "frequency_penalty", "repetition_penalty"}
# Found values may be of any size and depth.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 200


def short_repr(value: Any) -> str:
    """Returns a found value for a message, abridged if it is long or deep."""
    return _REPR.repr(value)


def as_whole_number(value: Any) -> Any:
    """Returns a number such as 4.0 as a whole one, which it is in JSON; others as they are."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


WholeNumber = Annotated[int, BeforeValidator(as_whole_number)]


def complaint(text: str, *, at: str = "") -> PydanticCustomError:
    """Returns the error to raise in a validator, at a path such as ".seed" or "[2]"."""
    return PydanticCustomError("complaint", "{text}", {"text": text, "at": at})


class CheckedModel(BaseModel):
    """A model of parsed JSON: strict types, unknown keys refused.

    A field's `description` is what an error says was expected there, `expected` what it
    says of a whole object.
    """

    expected: ClassVar[str] = "an object"

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def parse(
        cls, values: Mapping[str, Any], *, at: str = "", ignored: set[str] | None = None
    ) -> Self:
        """Returns the values as a model; errors say where in its line it is.

        Unknown keys are refused, or, if there is a set for their names, ignored.

        Raises:
            RequestError: If a value is missing, unknown or of another type; missing
                ones are reported last.
        """
        try:
            return cls.model_validate(values, context=ignored)
        except ValidationError as reason:
            first = min(reason.errors(), key=lambda each: each["type"] == "missing")
            raise RequestError(_one_line(cls, first, at)) from reason

    @classmethod
    def refusal(cls, key: str, value: Any) -> str:
        """Returns what is wrong with a key that is not a field."""
        del key, value
        common = RequestFields.model_fields
        # The keys of this form are more useful than the common ones.
        names = sorted(cls.model_fields, key=lambda name: name in common)
        return f"unknown key; expected one of {', '.join(names)}"


class Asked(NamedTuple):
    """What a request of any form asks for.

    Attributes:
        contents: Prompts, or messages of a conversation.
        max_new_tokens: Maximum number of new tokens; None if the request leaves it open.
        num_choices: Number of continuations of each prompt.
        top_logprobs: Number of likeliest tokens to list; None for no log-probabilities.
        echoes: Whether the answer begins with the prompt.
        is_prompt_only: Whether it has nothing else.
        model: Name that the request gives to the model, if any.
        grammar: Grammar that the text follows, if any.
        calls_tools: Whether the answer may call tools.
        forced_calls: Calls that the answer consists of, if it has to.
        template_arguments: What else a chat template is given, such as tools.
    """

    contents: tuple[PromptContent, ...]
    max_new_tokens: int | None
    num_choices: int = 1
    top_logprobs: int | None = None
    echoes: bool = False
    is_prompt_only: bool = False
    model: str | None = None
    grammar: Grammar | None = None
    calls_tools: bool = False
    forced_calls: ForcedCalls | None = None
    template_arguments: Mapping[str, Any] = MappingProxyType({})


def named_limit(**limits: int | None) -> int | None:
    """Returns the first of several fields that says how many new tokens there may be.

    Raises:
        RequestError: It is no number that devices can count to.
    """
    for name, limit in limits.items():
        if limit is not None:
            check_max_new_tokens(limit, name)
            return limit
    return None


class RequestFields(CheckedModel):
    """Fields common to all forms of a request."""

    form: ClassVar[Form]

    max_tokens: WholeNumber | None = Field(None, description="a whole number")
    temperature: int | float | None = Field(None, description="a number")
    top_k: WholeNumber | None = Field(None, description="a whole number")
    top_p: int | float | None = Field(None, description="a number")
    min_p: int | float | None = Field(None, description="a number")
    presence_penalty: int | float | None = Field(None, description="a number")
    frequency_penalty: int | float | None = Field(None, description="a number")
    repetition_penalty: int | float | None = Field(None, description="a number")
    logit_bias: dict[str, int | float] | None = Field(
        None, description="an object of numbers by token ids"
    )
    ignore_eos: bool | None = Field(None, description="true or false")
    seed: WholeNumber | None = Field(None, description="a whole number")
    stop: str | list[Any] | None = Field(None, description="a text or a list of them")

    def logit_changes(self) -> LogitChanges:
        """Returns the biases and penalties.

        Raises:
            RequestError: If one is out of range, or a bias is of no token id.
        """
        bias: list[tuple[int, float]] = []
        for token_id, value in (self.logit_bias or {}).items():
            if not (token_id.isascii() and token_id.isdigit() and len(token_id) < 10):
                msg = f'logit_bias: found {short_repr(token_id)}, expected token ids such as "50256"'
                raise RequestError(msg)
            bias.append((int(token_id), float(value)))
        given = self.model_dump(include=_PENALTIES, exclude_none=True)
        return LogitChanges(bias=tuple(sorted(bias)), **given)

    @abstractmethod
    def asked(self) -> Asked:
        """Returns what the request asks for, whatever its form calls it."""


def _without_none(annotation: Any) -> Any:
    """Returns the type of a field that may be absent."""
    kinds = [each for each in get_args(annotation) if each is not type(None)]
    is_optional = len(kinds) == 1 and type(None) in get_args(annotation)
    return kinds[0] if is_optional else annotation


def _one_line(model: type[CheckedModel], detail: ErrorDetails, at: str) -> str:
    """Formats an error as "key: found …, expected …"."""
    inner: Any = model
    expected = None
    for part in detail["loc"]:
        inner = _without_none(inner)
        if isinstance(part, int):
            (inner,) = map(_without_none, get_args(inner))
            expected = inner.expected
            at = f"{at}[{part}]"
        elif isinstance(inner, type) and issubclass(inner, CheckedModel):
            at = f"{at}.{part}".removeprefix(".")
            by_name = {
                field.alias or name: field for name, field in inner.model_fields.items()
            }
            if detail["type"] == "extra_forbidden" and part not in by_name:
                return f"{at}: {inner.refusal(part, detail['input'])}"
            field = by_name[part]
            inner, expected = field.annotation, field.description
        else:
            break  # The rest names a member of a union.
    match detail["type"]:
        case "complaint":
            at += detail.get("ctx", {})["at"]
            return f"{at.removeprefix('.')}: {detail['msg']}"
        case "missing":
            return f"{at}: missing, expected {expected}"
        case "too_short":
            return f"{at}: found none, expected at least one"
        case _:
            return f"{at}: found {short_repr(detail['input'])}, expected {expected}"
