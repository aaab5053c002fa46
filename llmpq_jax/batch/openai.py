"""OpenAI's request bodies and the batch-file lines that carry them, as pydantic models.

A key that would change the answer in a way that is not supported is refused by name,
unless its value asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmpq_jax.batch.prompt import Form
from llmpq_jax.batch.request_fields import (
    Asked,
    CheckedModel,
    RequestFields,
    WholeNumber,
    as_whole_number,
    complaint,
    short_repr,
)

# Accepted with any value, because they do not change the answer.
_IGNORED_FIELDS: frozenset[str] = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Unsupported fields, each with the values that ask for nothing.
_NO_OP_VALUES: dict[str, tuple[Any, ...]] = {
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


def _join_parts(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    for index, part in enumerate(content):
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not (is_text and isinstance(part.get("text"), str)):
            text = f'found {short_repr(part)}, expected {{"type": "text", "text": "…"}}: nothing else is supported'
            raise complaint(text, at=f"[{index}]")
    return "".join(part["text"] for part in content)


def _as_prompts(prompt: Any) -> Any:
    """Returns a prompt as a list of one; token ids as whole numbers."""
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list):
        return prompt
    if any(isinstance(each, str) for each in prompt):
        if all(isinstance(each, str) for each in prompt):
            return prompt
    elif any(isinstance(each, list) for each in prompt):
        if all(isinstance(each, list) for each in prompt):
            return [_as_token_ids(each) for each in prompt]
    else:
        return [_as_token_ids(prompt)]
    text = "found a list of several kinds, expected texts alone, or token ids, or lists of token ids"
    raise complaint(text)


def _as_token_ids(values: list[Any]) -> list[int]:
    token_ids = [as_whole_number(each) for each in values]
    for index, token_id in enumerate(token_ids):
        # JSON's true and false are Python's int too.
        if type(token_id) is not int:
            text = f"found {short_repr(token_id)}, expected a token id"
            raise complaint(text, at=f"[{index}]")
    return token_ids


class _OpenAIModel(CheckedModel):
    """An object of OpenAI's; null is equivalent to an absent key.

    Attributes:
        ignored: Keys that are accepted with any value.
        no_op_values: Unsupported keys, each with the values that ask for nothing.
    """

    ignored: ClassVar[frozenset[str]] = frozenset()
    no_op_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: value
            for key, value in values.items()
            if value is not None
            and key not in cls.ignored
            and value not in cls.no_op_values.get(key, ())
        }

    @classmethod
    def refusal(cls, key: str, value: Any) -> str:
        if key not in cls.no_op_values:
            return super().refusal(key, value)
        expected = " or ".join(repr(each) for each in cls.no_op_values[key])
        return (
            f"found {short_repr(value)}, expected {expected}: nothing else is supported"
        )


class Message(_OpenAIModel):
    """A message of a conversation; its content's parts are joined to one text.

    An answer of OpenAI's or of vLLM's is one too, if it is a text alone.
    """

    expected = "an object with role and content"
    no_op_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "annotations": ([],),
        "reasoning": ("",),
        "reasoning_content": ("",),
        "refusal": ("",),
        "tool_calls": ([],),
    }

    role: str = Field(description="a text")
    content: Annotated[str, BeforeValidator(_join_parts)] = Field(description="a text")
    name: str | None = Field(None, description="a text")


class _Body(_OpenAIModel, RequestFields):
    """Fields of both endpoints' bodies."""

    ignored = _IGNORED_FIELDS
    no_op_values = _NO_OP_VALUES

    model: str | None = Field(None, description="a text")
    n: WholeNumber = Field(1, description="a whole number")


class ChatBody(_Body):
    """Body of a request to /v1/chat/completions."""

    form: ClassVar[Form] = "chat"

    messages: list[Message] = Field(min_length=1, description="a list of messages")
    max_completion_tokens: WholeNumber | None = Field(
        None, description="a whole number"
    )
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: WholeNumber | None = Field(None, description="a whole number")

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        older, newer = self.max_tokens, self.max_completion_tokens
        if older is not None and newer is not None and older != newer:
            text = (
                f"found {older} and max_completion_tokens {newer}, expected one of them"
            )
            raise complaint(text, at=".max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            text = 'found without logprobs, expected "logprobs": true with it'
            raise complaint(text, at=".top_logprobs")
        return self

    def asked(self) -> Asked:
        """Returns what is asked for; `max_tokens` is the older name of its limit."""
        newer = self.max_completion_tokens
        messages = tuple(each.model_dump(exclude_none=True) for each in self.messages)
        return Asked(
            contents=(messages,),
            max_new_tokens=self.max_tokens if newer is None else newer,
            num_choices=self.n,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            model=self.model,
        )


class CompletionBody(_Body):
    """Body of a request to /v1/completions."""

    form: ClassVar[Form] = "completion"

    prompt: Annotated[list[str] | list[list[int]], BeforeValidator(_as_prompts)] = (
        Field(description="a text or a list of token ids, or a list of these")
    )
    logprobs: WholeNumber | None = Field(None, description="a whole number")

    def asked(self) -> Asked:
        """Returns what is asked for; `logprobs` is a number here."""
        return Asked(
            contents=tuple(
                each if isinstance(each, str) else tuple(each) for each in self.prompt
            ),
            max_new_tokens=self.max_tokens,
            num_choices=self.n,
            top_logprobs=self.logprobs,
            model=self.model,
        )


Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
BODIES: dict[Endpoint, type[ChatBody | CompletionBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
}


class BatchLine(CheckedModel):
    """A line of OpenAI's batch files: a request body and where to send it."""

    custom_id: Any = None
    method: Literal["POST"] = Field("POST", description='"POST"')
    url: Endpoint = Field(description=" or ".join(BODIES))
    body: dict[str, Any] = Field(description="an object")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        return {
            key: value
            for key, value in values.items()
            if value is not None or key not in ("url", "body")
        }


def is_batch_line(values: Mapping[str, Any]) -> bool:
    """Whether a line has the form of OpenAI's batch files."""
    return any(key in values for key in ("method", "url", "body"))


def parse_batch_line(values: Mapping[str, Any]) -> ChatBody | CompletionBody:
    """Returns the request body of a line.

    Raises:
        RequestError: If it is no such line, or asks for what is not supported.
    """
    line = BatchLine.parse(values)
    return BODIES[line.url].parse(line.body, at="body")
