"""OpenAI's request bodies and the batch-file lines that carry them, as pydantic models.

A key that would change the answer in a way that is not supported is refused by name,
unless its value asks for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from llmpq_jax.batch.prompt import ForcedCalls, Form
from llmpq_jax.batch.request_fields import (
    Asked,
    CheckedModel,
    RequestFields,
    WholeNumber,
    as_whole_number,
    complaint,
    named_limit,
    short_repr,
)
from llmpq_jax.errors import RequestError
from llmpq_jax.files import json_text
from llmpq_jax.runtime.request import Grammar, GrammarKind

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
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "suffix": ("",),
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


def _parse_arguments(arguments: Any) -> Any:
    """Returns a call's arguments, which OpenAI's API has as JSON, as an object."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError) as reason:
        text = f"is not JSON ({reason}), expected an object of the arguments"
        raise complaint(text) from reason


class OpenAIModel(CheckedModel):
    """An object of OpenAI's; null is equivalent to an absent key.

    Attributes:
        ignored: Keys that are accepted with any value.
        no_op_values: Unsupported keys, each with the values that ask for nothing.
    """

    ignored: ClassVar[frozenset[str]] = frozenset()
    no_op_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        known = {field.alias or name for name, field in fields.items()}
        known |= cls.no_op_values.keys()
        if info.context is not None:
            unknown = values.keys() - known - cls.ignored
            info.context.update(unknown)
            values = {key: values[key] for key in values if key not in unknown}
        return {
            key: value
            for key, value in values.items()
            if value is not None
            and key not in cls.ignored
            and value not in cls.no_op_values.get(key, ())
        }

    @classmethod
    def refusal(cls, key: str, value: Any) -> str:
        """Returns what is wrong with a key that is not served, or not known."""
        if key not in cls.no_op_values:
            return super().refusal(key, value)
        expected = " or ".join(repr(each) for each in cls.no_op_values[key])
        return (
            f"found {short_repr(value)}, expected {expected}: nothing else is supported"
        )


class ToolFunction(OpenAIModel):
    """The function that a model called."""

    expected = "an object with name and arguments"

    name: str = Field(description="a text")
    arguments: Annotated[dict[str, Any], BeforeValidator(_parse_arguments)] = Field(
        description="an object, or its JSON"
    )


class ToolCall(OpenAIModel):
    """A call of a function in an earlier answer."""

    expected = "an object with id, type and function"
    ignored = frozenset({"index"})

    id: str | None = Field(None, description="a text")
    type: Literal["function"] = Field("function", description='"function"')
    function: ToolFunction = Field(description="an object with name and arguments")


class Message(OpenAIModel):
    """A message of a conversation; its content's parts are joined to one text.

    An answer of OpenAI's or of vLLM's is one too.
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
    content: Annotated[str | None, BeforeValidator(_join_parts)] = Field(
        None, description="a text"
    )
    name: str | None = Field(None, description="a text")
    tool_call_id: str | None = Field(None, description="a text")
    tool_calls: list[ToolCall] | None = Field(None, description="a list of calls")
    reasoning: str | None = Field(None, description="a text")
    reasoning_content: str | None = Field(None, description="a text")

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.content is None and not self.tool_calls:
            text = "missing, expected a text"
            raise complaint(text, at=".content")
        return self

    def for_template(self) -> dict[str, Any]:
        """Returns the message as chat templates expect it: arguments of calls parsed."""
        values = self.model_dump(exclude_none=True)
        values.setdefault("content", "")
        if not values.get("tool_calls"):
            values.pop("tool_calls", None)
        reasoning = values.pop("reasoning", None)
        if reasoning:
            values.setdefault("reasoning_content", reasoning)
        return values


class StreamOptions(OpenAIModel):
    """What the parts of a streamed answer have."""

    expected = "an object"
    ignored = frozenset({"include_obfuscation", "continuous_usage_stats"})

    include_usage: bool = Field(False, description="true or false")


def _grammars(kind: GrammarKind, content: str | None) -> tuple[Grammar, ...]:
    return () if content is None else (Grammar(kind=kind, content=content),)


class JsonSchemaFormat(OpenAIModel):
    """A JSON schema with a name."""

    expected = "an object with schema"
    ignored = frozenset({"name", "description", "strict"})

    schema_: dict[str, Any] | bool = Field(alias="schema", description="a JSON schema")


class ResponseFormat(OpenAIModel):
    """OpenAI's form of a grammar."""

    expected = "an object with type"

    type: Literal["text", "json_object", "json_schema"] = Field(
        description='"text", "json_object" or "json_schema"'
    )
    json_schema: JsonSchemaFormat | None = Field(
        None, description="an object with schema"
    )

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            text = 'expected with "type": "json_schema", and there alone'
            raise complaint(text, at=".json_schema")
        return self

    def grammar(self) -> Grammar | None:
        """Returns the grammar; None of a plain text."""
        if self.type == "text":
            return None
        schema: Any = {"type": "object"}
        if self.json_schema is not None:
            schema = self.json_schema.schema_
        return Grammar(kind="json_schema", content=json_text(schema))


class StructuredOutputs(OpenAIModel):
    """The form of a grammar that vLLM added."""

    expected = "an object with one of json, regex, choice, grammar"

    json_: dict[str, Any] | str | None = Field(
        None, alias="json", description="a JSON schema"
    )
    json_object: bool | None = Field(None, description="true or false")
    regex: str | None = Field(None, description="a text")
    choice: list[str] | None = Field(None, min_length=1, description="a list of texts")
    grammar_: str | None = Field(None, alias="grammar", description="a text")

    def grammar(self) -> Grammar | None:
        """Returns the grammar, if there is one.

        Raises:
            RequestError: There are several.
        """
        schema = self.json_
        if schema is not None and not isinstance(schema, str):
            schema = json_text(schema)
        choices = None if self.choice is None else json_text(self.choice)
        found = [
            *_grammars("json_schema", schema),
            *_grammars(
                "json_schema", '{"type": "object"}' if self.json_object else None
            ),
            *_grammars("regex", self.regex),
            *_grammars("choice", choices),
            *_grammars("lark", self.grammar_),
        ]
        if len(found) > 1:
            msg = "structured_outputs: found several grammars, expected one"
            raise RequestError(msg)
        return found[0] if found else None


class _Body(OpenAIModel, RequestFields):
    """Fields of both endpoints' bodies."""

    ignored = _IGNORED_FIELDS
    no_op_values = _NO_OP_VALUES

    model: str | None = Field(None, description="a text")
    n: WholeNumber = Field(1, description="a whole number")
    response_format: ResponseFormat | None = Field(None, description="an object")
    structured_outputs: StructuredOutputs | None = Field(None, description="an object")
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions | None = Field(None, description="an object")

    def grammar(self) -> Grammar | None:
        """Returns the grammar that the text follows, if any.

        Raises:
            RequestError: There are several.
        """
        forms = (self.response_format, self.structured_outputs)
        found = [form.grammar() for form in forms if form is not None]
        grammars = [grammar for grammar in found if grammar is not None]
        if len(grammars) > 1:
            msg = "response_format: found with structured_outputs, expected one of them"
            raise RequestError(msg)
        return grammars[0] if grammars else None


def _function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the function of a tool, its name and the form of its parameters checked."""
    function = tool.get("function")
    if isinstance(function, dict) and isinstance(name := function.get("name"), str):
        parameters = function.get("parameters")
        if name and (parameters is None or _is_schema(parameters)):
            return {"name": name, "parameters": parameters}
    text = f'found {short_repr(tool)}, expected {{"type": "function", "function": {{"name": "…", "parameters": {{…}}}}}}'
    raise complaint(text, at=".tools")


def _is_schema(parameters: object) -> bool:
    if not isinstance(parameters, dict):
        return False
    properties = parameters.get("properties", {})
    return isinstance(properties, dict) and isinstance(
        parameters.get("required", []), list
    )


class ChatBody(_Body):
    """Body of a request to /v1/chat/completions."""

    form: ClassVar[Form] = "chat"

    messages: list[Message] = Field(min_length=1, description="a list of messages")
    max_completion_tokens: WholeNumber | None = Field(
        None, description="a whole number"
    )
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: WholeNumber | None = Field(None, description="a whole number")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="an object")
    tools: list[dict[str, Any]] | None = Field(None, description="a list of objects")
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="a text or an object"
    )

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
        if self.forced_calls() is not None and self.grammar() is not None:
            text = "found with a response format, expected one of them"
            raise complaint(text, at=".tool_choice")
        return self

    def forced_calls(self) -> ForcedCalls | None:
        """Returns the calls that the answer has to consist of, if any."""
        choice = self.tool_choice
        if choice is None or choice in ("none", "auto"):
            return None
        functions = [_function_of(tool) for tool in self.tools or ()]
        if choice == "required" and functions:
            return ForcedCalls(tools=tuple(functions), is_single=False)
        name = choice.get("function") if isinstance(choice, dict) else None
        name = name.get("name") if isinstance(name, dict) else None
        for function in functions:
            if function["name"] == name:
                return ForcedCalls(tools=(function,), is_single=True)
        text = f'found {short_repr(choice)}, expected "none", "auto", "required" with tools, or {{"type": "function", "function": {{"name": "…"}}}} with one of theirs'
        raise complaint(text, at=".tool_choice")

    def asked(self) -> Asked:
        """Returns what is asked for; `max_tokens` is the older name of its limit."""
        messages = tuple(each.for_template() for each in self.messages)
        template_arguments = dict(self.chat_template_kwargs or {})
        calls_tools = bool(self.tools) and self.tool_choice != "none"
        if calls_tools:
            template_arguments["tools"] = self.tools
        return Asked(
            contents=(messages,),
            max_new_tokens=named_limit(
                max_completion_tokens=self.max_completion_tokens,
                max_tokens=self.max_tokens,
            ),
            num_choices=self.n,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            model=self.model,
            grammar=self.grammar(),
            calls_tools=calls_tools,
            forced_calls=self.forced_calls(),
            template_arguments=template_arguments,
        )


class CompletionBody(_Body):
    """Body of a request to /v1/completions."""

    form: ClassVar[Form] = "completion"
    no_op_values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **_NO_OP_VALUES,
        "tool_choice": ("none", "auto"),
        "tools": ([],),
    }

    prompt: Annotated[list[str] | list[list[int]], BeforeValidator(_as_prompts)] = (
        Field(description="a text or a list of token ids, or a list of these")
    )
    logprobs: WholeNumber | None = Field(None, description="a whole number")
    echo: bool = Field(False, description="true or false")

    def asked(self) -> Asked:
        """Returns what is asked for; `logprobs` is a number here."""
        is_prompt_only = self.echo and self.max_tokens == 0
        return Asked(
            contents=tuple(
                each if isinstance(each, str) else tuple(each) for each in self.prompt
            ),
            # The log-probabilities of a prompt come with one more token, which is dropped.
            max_new_tokens=1
            if is_prompt_only
            else named_limit(max_tokens=self.max_tokens),
            num_choices=self.n,
            top_logprobs=self.logprobs,
            echoes=self.echo,
            is_prompt_only=is_prompt_only,
            model=self.model,
            grammar=self.grammar(),
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
    body = BODIES[line.url].parse(line.body, at="body")
    if body.stream:
        msg = "body.stream: found True, expected False: results of a batch are written when they are complete"
        raise RequestError(msg)
    if isinstance(body, CompletionBody) and body.echo and body.logprobs is not None:
        msg = "body.echo: found True with logprobs, expected one of them: log-probabilities of prompts are served by `llmpq-jax serve`"
        raise RequestError(msg)
    return body
