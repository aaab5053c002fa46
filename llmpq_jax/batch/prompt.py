"""A prompt with its options, and a line of which none can be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmpq_jax.batch.answer import tool_form_of
from llmpq_jax.errors import RequestError
from llmpq_jax.files import json_text
from llmpq_jax.runtime.request import (
    NO_LOGIT_CHANGES,
    Grammar,
    LogitChanges,
    Sampling,
    check_max_new_tokens,
)
from llmpq_jax.units import KIB

if TYPE_CHECKING:
    from llmpq_jax.checkpoint.tokenizer import Tokenizer

GREEDY = Sampling()

# Maximum characters of a message, which may quote what was found.
_MAX_REASON = 600
# Shorter texts are tokenised in milliseconds, so that their number of tokens is reported.
_ALWAYS_TOKENISED_BYTES = 64 * KIB

# A plain line, or a request to one of OpenAI's two endpoints.
Form = Literal["plain", "completion", "chat"]


ErrorCode = Literal["invalid_request", "server_error"]

# Text, token ids, or messages with "role" and "content".
PromptContent = str | tuple[int, ...] | tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a file of prompts.

    Attributes:
        number: Number of the line, from 1.
        custom_id: Name of the line in the results; unique among all lines.
        where: Location for messages: "prompts.jsonl line 3".
    """

    number: int
    custom_id: str
    where: str


class ForcedCalls(NamedTuple):
    """Calls that an answer consists of, whatever else the model would write.

    Attributes:
        tools: Functions that may be called, with "name" and perhaps "parameters".
        is_single: Whether there is one call; otherwise there is at least one.
    """

    tools: tuple[Mapping[str, Any], ...]
    is_single: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt(Line):
    """A prompt with its options.

    Attributes:
        contents: Prompts of the line, in the order of their results: the text or token
            ids of each, or messages of a conversation, each with "role" and "content".
        form: Form of the line, and so of its result.
        model: Name that the line gives to the model; None if it gives none.
        max_new_tokens: Maximum number of new tokens; None for the strategy's.
        sampling: Rule by which tokens are chosen.
        stop: Texts that end the continuation; the first one that appears is cut off
            with all that follows.
        num_choices: Number of continuations of each prompt; each after the first draws
            with the next seed.
        top_logprobs: Number of likeliest tokens to list; see `Request`.
        echoes: Whether the answer begins with the prompt.
        is_prompt_only: Whether it has nothing else.
        ignores_eos: Whether generation continues after an end-of-text token; None if the
            line leaves it open.
        logit_changes: Biases and penalties.
        grammar: Grammar that the text follows, if any.
        calls_tools: Whether the answer may call tools.
        forced_calls: Calls that the answer consists of, if it has to.
        template_arguments: What else a chat template is given, such as tools.
    """

    contents: tuple[PromptContent, ...]
    form: Form = "plain"
    model: str | None = None
    max_new_tokens: int | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    num_choices: int = 1
    top_logprobs: int | None = None
    echoes: bool = False
    is_prompt_only: bool = False
    ignores_eos: bool | None = None
    logit_changes: LogitChanges = NO_LOGIT_CHANGES
    grammar: Grammar | None = None
    calls_tools: bool = False
    forced_calls: ForcedCalls | None = None
    template_arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_requests(self) -> int:
        """Number of continuations of all prompts."""
        return len(self.contents) * self.num_choices

    @property
    def text(self) -> str:
        """Text to show for the first prompt."""
        return self.text_of(0)

    def text_of(self, index: int) -> str:
        """Returns the text to show for the prompt of one of the continuations.

        Of a conversation it is the last message.
        """
        content = self.contents[index // self.num_choices]
        if isinstance(content, str):
            return content
        last = content[-1]
        if isinstance(last, Mapping):
            return last["content"]
        return " ".join(str(token_id) for token_id in content)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadLine(Line):
    """A line that cannot be served; it does not affect the other lines.

    Attributes:
        reason: Message on one line, without the location.
        code: Kind of the error: whether the line or the model is the cause.
    """

    reason: str
    code: ErrorCode = "invalid_request"

    @classmethod
    def of(
        cls, line: Line, error: RequestError, *, code: ErrorCode = "invalid_request"
    ) -> BadLine:
        """Makes a bad line of an error; the message is cut to one line of bounded length."""
        reason = " ".join(str(error).split())
        if len(reason) > _MAX_REASON:
            reason = f"{reason[: _MAX_REASON // 2]} … {reason[-_MAX_REASON // 2 :]}"
        name, where = line.custom_id, line.where
        return cls(
            number=line.number, custom_id=name, where=where, reason=reason, code=code
        )

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptDefaults:
    """Options of prompts whose lines leave them open; see `Prompt`."""

    max_new_tokens: int | None = None
    sampling: Sampling = field(default=GREEDY)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            check_max_new_tokens(self.max_new_tokens)


def prompt_tokens(
    prompt: Prompt,
    tokenizer: Tokenizer,
    *,
    is_chat: bool = False,
    max_tokens: int | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Returns the token ids that the model continues, of each prompt of a line.

    Conversations go through the checkpoint's chat template, and with `is_chat` plain
    prompts too, as a user's message. A text that is far too long for `max_tokens` is
    refused by its bytes, because tokenising it may take minutes.

    Raises:
        RequestError: If the template is missing or refuses the conversation, or the
            text is far too long.
    """
    if prompt.calls_tools and tool_form_of(tokenizer.chat_template) is None:
        msg = "tools: the model's chat template has no form of calls that is known: expected a model that calls tools as Hermes, Qwen or Llama 3 do"
        raise RequestError(msg)
    is_message = prompt.form == "plain" and is_chat
    if max_tokens is not None:
        for content in prompt.contents:
            _check_bytes(content, tokenizer, max_tokens)
    return tuple(
        _content_tokens(
            content, tokenizer, prompt.template_arguments, is_message=is_message
        )
        for content in prompt.contents
    )


def prompt_grammar(prompt: Prompt, tokenizer: Tokenizer) -> Grammar | None:
    """Returns the grammar that answers to a prompt follow, if there is one."""
    if prompt.forced_calls is None:
        return prompt.grammar
    form = tool_form_of(tokenizer.chat_template)
    content = json_text({"form": form, **prompt.forced_calls._asdict()})
    return Grammar(kind="calls", content=content, field="tool_choice")


def _content_tokens(
    content: PromptContent,
    tokenizer: Tokenizer,
    template_arguments: Mapping[str, Any],
    *,
    is_message: bool,
) -> tuple[int, ...]:
    if isinstance(content, str):
        if is_message:
            return tokenizer.encode_chat([{"role": "user", "content": content}])
        return tokenizer.encode(content)
    token_ids = tuple(each for each in content if isinstance(each, int))
    messages = [each for each in content if isinstance(each, Mapping)]
    if not messages:
        return token_ids
    return tokenizer.encode_chat(messages, **template_arguments)


def _check_bytes(content: PromptContent, tokenizer: Tokenizer, max_tokens: int) -> None:
    """Refuses a text with more bytes than a number of tokens have at most."""
    if isinstance(content, str):
        num_bytes = len(content.encode())
    else:
        messages = [each for each in content if isinstance(each, Mapping)]
        num_bytes = sum(len(each["content"].encode()) for each in messages)
    longest = tokenizer.max_token_bytes
    if num_bytes > max(_ALWAYS_TOKENISED_BYTES, max_tokens * longest):
        msg = f"the prompt has {num_bytes} bytes: expected at most {max_tokens} tokens, of at most {longest} bytes each; shorten it or plan for longer prompts"
        raise RequestError(msg)
