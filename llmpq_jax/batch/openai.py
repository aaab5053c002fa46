"""OpenAI's request bodies and the batch-file lines that carry them, as pydantic models.

A key that would change the answer in a way that is not supported is refused by name,
unless its value asks for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llmpq_jax.batch.prompt import Form
from llmpq_jax.batch.request_fields import Asked, CheckedModel, RequestFields, complaint

# Accepted with any value, because they do not change the answer.
_IGNORED_FIELDS = frozenset(
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
            text = f'found {part!r}, expected {{"type": "text", "text": "…"}}: nothing else is supported'
            raise complaint(text, at=f"[{index}]")
    return "".join(part["text"] for part in content)


def _check_token_ids(prompt: Any) -> Any:
    # JSON's true and false are Python's int too.
    if isinstance(prompt, list) and not all(type(each) is int for each in prompt):
        text = "found a list that is not of token ids, expected one text: put several on lines of their own"
        raise complaint(text)
    return prompt


class Message(CheckedModel):
    """A message of a conversation; its content's parts are joined to one text."""

    expected = "an object with role and content"

    role: str = Field(description="a text")
    content: Annotated[str, BeforeValidator(_join_parts)] = Field(description="a text")
    name: str | None = Field(None, description="a text")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        return _without_nulls(values)


class _Body(RequestFields):
    """Fields of both endpoints' bodies; null is equivalent to an absent key."""

    model: str | None = Field(None, description="a text")
    n: int = Field(1, description="a whole number")

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, values: Any) -> Any:
        return {
            key: value
            for key, value in _without_nulls(values).items()
            if key not in _IGNORED_FIELDS and value not in _NO_OP_VALUES.get(key, ())
        }

    @classmethod
    def refusal(cls, key: str, value: Any) -> str:
        if key not in _NO_OP_VALUES:
            return super().refusal(key, value)
        expected = " or ".join(repr(each) for each in _NO_OP_VALUES[key])
        return f"found {value!r}, expected {expected}: nothing else is supported"


class ChatBody(_Body):
    """Body of a request to /v1/chat/completions."""

    form: ClassVar[Form] = "chat"

    messages: list[Message] = Field(min_length=1, description="a list of messages")
    max_completion_tokens: int | None = Field(None, description="a whole number")
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: int | None = Field(None, description="a whole number")

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
        return Asked(
            content=tuple(each.model_dump(exclude_none=True) for each in self.messages),
            max_new_tokens=self.max_tokens if newer is None else newer,
            num_choices=self.n,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            model=self.model,
        )


class CompletionBody(_Body):
    """Body of a request to /v1/completions."""

    form: ClassVar[Form] = "completion"

    prompt: Annotated[str | list[int], BeforeValidator(_check_token_ids)] = Field(
        description="a text or a list of token ids"
    )
    logprobs: int | None = Field(None, description="a whole number")

    def asked(self) -> Asked:
        """Returns what is asked for; `logprobs` is a number here."""
        prompt = self.prompt
        return Asked(
            content=prompt if isinstance(prompt, str) else tuple(prompt),
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
        return _without_nulls(values, keys=("url", "body"))


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


def _without_nulls(values: Any, *, keys: tuple[str, ...] | None = None) -> Any:
    """Drops keys that are null, of all or some keys; leaves other values as they are."""
    if not isinstance(values, dict):
        return values
    return {
        key: value
        for key, value in values.items()
        if value is not None or (keys is not None and key not in keys)
    }
