"""What one line of a file of prompts asks for, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.request import Sampling

if TYPE_CHECKING:
    from llmpq_jax.checkpoint.tokenizer import Tokenizer

GREEDY = Sampling()

# Characters of a message, which may quote what was found.
_MAX_REASON = 600

# A line of ours, or a request to one of OpenAI's two endpoints.
Form = Literal["plain", "completion", "chat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt with its choices.

    Attributes:
        number: Of its line, from 1.
        custom_id: Names it in the results; unique.
        content: The prompt as text or as token ids, or the messages of a conversation,
            each with "role" and "content".
        where: For messages: "prompts.jsonl line 3".
        form: Of the line, and so of its result.
        model: What the line calls the model; absent where it does not.
        max_new_tokens: At most so many; absent for as many as the strategy plans for.
        sampling: How tokens are chosen.
        stop: The continuation ends before the first of these texts.
        num_choices: How many continuations are wanted; each after the first draws with
            the next seed.
        top_logprobs: See `Request`.
    """

    number: int
    custom_id: str
    content: str | tuple[int, ...] | tuple[Mapping[str, str], ...]
    where: str
    form: Form = "plain"
    model: str | None = None
    max_new_tokens: int | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    num_choices: int = 1
    top_logprobs: int | None = None

    @property
    def text(self) -> str:
        """What a person sees of it; of a conversation the last message."""
        if isinstance(self.content, str):
            return self.content
        last = self.content[-1]
        if isinstance(last, Mapping):
            return last["content"]
        return " ".join(str(token_id) for token_id in self.content)


@dataclass(frozen=True, kw_only=True, slots=True)
class BadLine:
    """A line that cannot be served; the others can.

    Attributes:
        number: Of the line, from 1.
        custom_id: Names it in the results; unique like those of prompts.
        where: For messages.
        reason: One sentence.
    """

    number: int
    custom_id: str
    where: str
    reason: str

    @classmethod
    def of(
        cls, *, number: int, custom_id: str, where: str, error: RequestError
    ) -> BadLine:
        """Makes one of what was raised: on one line, and not the whole prompt."""
        reason = " ".join(str(error).split())
        if len(reason) > _MAX_REASON:
            reason = f"{reason[: _MAX_REASON // 2]} … {reason[-_MAX_REASON // 2 :]}"
        return cls(number=number, custom_id=custom_id, where=where, reason=reason)

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What holds for prompts that do not say otherwise; see `Prompt`."""

    max_new_tokens: int | None = None
    sampling: Sampling = field(default=GREEDY)
    stop: tuple[str, ...] = ()


def prompt_tokens(
    prompt: Prompt, tokenizer: Tokenizer, *, is_chat: bool = False
) -> tuple[int, ...]:
    """Returns the tokens a model is to continue.

    Args:
        prompt: Conversations go through the checkpoint's chat template.
        tokenizer: Of the checkpoint.
        is_chat: So do plain prompts, each as a user's message.

    Raises:
        RequestError: The template is missing or refuses the conversation.
    """
    content = prompt.content
    if isinstance(content, str):
        if prompt.form == "plain" and is_chat:
            return tokenizer.encode_chat([{"role": "user", "content": content}])
        return tokenizer.encode(content)
    token_ids = tuple(each for each in content if isinstance(each, int))
    messages = [each for each in content if isinstance(each, Mapping)]
    return tokenizer.encode_chat(messages) if messages else token_ids
