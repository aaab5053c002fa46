"""What is asked for and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmpq_jax.errors import RequestError

FinishReason = Literal["eos", "stop", "length"]
MAX_TOP_LOGPROBS = 20
_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How a request's tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest token; higher draws more evenly.
        top_k: Draws among so many likeliest tokens; 0 among all.
        top_p: Draws among the fewest tokens whose probabilities reach it.
        seed: Of the request's own random numbers; the same seed gives the same text,
            whatever else is in the batch.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            msg = (
                f"temperature is {self.temperature}, expected a finite number from 0 up"
            )
            raise RequestError(msg)
        if self.top_k < 0:
            msg = f"top_k is {self.top_k}, expected 0 (all tokens) or more"
            raise RequestError(msg)
        if not 0 < self.top_p <= 1:
            msg = f"top_p is {self.top_p}, expected more than 0 and at most 1"
            raise RequestError(msg)
        if not 0 <= self.seed <= _LARGEST_SEED:
            msg = f"seed is {self.seed}, expected 0 to {_LARGEST_SEED}"
            raise RequestError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """How likely a token was, by the logits before temperature.

    Attributes:
        logprob: Natural logarithm of its probability.
        top_tokens: As many of the likeliest tokens as were asked for, in order, each with
            its own.
    """

    logprob: float
    top_tokens: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialCompletion:
    """What a request has already, of stages that were lost since.

    Attributes:
        token_ids: Its new tokens so far.
        logprobs: Of each, where they are asked for.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt to be continued.

    Attributes:
        token_ids: The prompt, tokenised.
        max_new_tokens: Tokens generated at most.
        sampling: How they are chosen.
        stop: The continuation ends before the first of these texts.
        ignores_eos: Goes on to `max_new_tokens` whatever the model says.
        top_logprobs: For each token its log-probability is told, and so many of the
            likeliest ones; absent for none of it.
        begun: What it has already: it goes on from there.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignores_eos: bool = False
    top_logprobs: int | None = None
    begun: PartialCompletion = PartialCompletion()

    def __post_init__(self) -> None:
        if not self.token_ids:
            msg = "the prompt is empty: expected at least one token"
            raise RequestError(msg)
        if self.max_new_tokens < 1:
            msg = f"max_new_tokens is {self.max_new_tokens}, expected at least 1"
            raise RequestError(msg)
        if any(not text for text in self.stop):
            msg = "a stop text is empty: expected at least one character"
            raise RequestError(msg)
        if not 0 <= (self.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
            msg = (
                f"top_logprobs is {self.top_logprobs}, expected 0 to {MAX_TOP_LOGPROBS}"
            )
            raise RequestError(msg)
        assert len(self.begun.token_ids) < self.max_new_tokens, "it is finished"

    @property
    def history(self) -> tuple[int, ...]:
        """Its prompt and what it has already: what is prefilled first."""
        return (*self.token_ids, *self.begun.token_ids)

    @property
    def num_left(self) -> int:
        """New tokens it may still take."""
        return self.max_new_tokens - len(self.begun.token_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What became of a request.

    Attributes:
        token_ids: The tokens generated, an end-of-text token included.
        text: What they say, without special tokens and without the stop text.
        finish_reason: "eos": the model ended it; "stop": a stop text came up;
            "length": `max_new_tokens` were generated.
        num_prompt_tokens: Of its prompt.
        logprobs: Of each token, where they were asked for.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    logprobs: tuple[TokenLogprobs, ...] | None = None
