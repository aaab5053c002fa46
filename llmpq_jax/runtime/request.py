"""Requests and their completions."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, replace
from typing import Literal

from llmpq_jax.errors import RequestError

FinishReason = Literal["eos", "stop", "length", "error"]
# The same as in `stage.sampling`, which imports JAX.
MAX_TOP_LOGPROBS = 20
# What the devices' types hold: int32, float32 and, in two words, int64.
_MAX_COUNT = 2**31 - 1
_MAX_TEMPERATURE = (2 - 2**-23) * 2.0**127
_SEED_LIMIT = 2**63
# A number in a file may have thousands of digits.
_short = reprlib.repr


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Sampling parameters of a request.

    Attributes:
        temperature: Divisor of the logits; 0 takes the likeliest token.
        top_k: Number of likeliest tokens to draw from; 0 for all.
        top_p: Probability mass of the likeliest tokens to draw from; 1 for all, 0 for the
            likeliest one.
        seed: Seed of the request's random numbers, an integer of 64 bits; the same seed
            gives the same text in every batch.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= _MAX_TEMPERATURE:
            msg = f"temperature is {_short(self.temperature)}, expected 0 to {_MAX_TEMPERATURE:.1e}"
            raise RequestError(msg)
        if not 0 <= self.top_k <= _MAX_COUNT:
            msg = f"top_k is {_short(self.top_k)}, expected 0 (all tokens) to {_MAX_COUNT}"
            raise RequestError(msg)
        if not 0 <= self.top_p <= 1:
            msg = f"top_p is {_short(self.top_p)}, expected 0 to 1"
            raise RequestError(msg)
        if not -_SEED_LIMIT <= self.seed < _SEED_LIMIT:
            msg = f"seed is {_short(self.seed)}, expected {-_SEED_LIMIT} to {_SEED_LIMIT - 1}"
            raise RequestError(msg)

    def with_next_seed(self, steps: int) -> Sampling:
        """Returns the parameters with a later seed; the first follows the last one."""
        seed = (self.seed + steps + _SEED_LIMIT) % (2 * _SEED_LIMIT) - _SEED_LIMIT
        return replace(self, seed=seed)


def check_max_new_tokens(count: int) -> None:
    """Refuses a number of tokens that devices cannot count to.

    Raises:
        RequestError: If it is less than 1 or no int32.
    """
    if not 1 <= count <= _MAX_COUNT:
        msg = f"max_new_tokens is {_short(count)}, expected 1 to {_MAX_COUNT}"
        raise RequestError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one token, from the logits before temperature.

    Attributes:
        logprob: Natural logarithm of the token's probability.
        top_tokens: Likeliest tokens in descending order, each with its log-probability.
    """

    logprob: float
    top_tokens: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialCompletion:
    """Tokens that were generated before a device failed.

    Attributes:
        token_ids: Tokens generated so far.
        logprobs: Log-probabilities of each token, empty unless the request asks for them.
    """

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt to complete.

    Attributes:
        token_ids: Tokens of the prompt.
        max_new_tokens: Largest number of tokens to generate.
        sampling: Sampling parameters, by default the likeliest token.
        stop: Texts before the first of which the completion ends.
        ignores_eos: Whether generation continues after an end-of-text token.
        top_logprobs: Number of likeliest tokens whose log-probabilities are returned with
            each token's own; None for no log-probabilities.
        partial: Tokens generated before this run, which continues after them.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignores_eos: bool = False
    top_logprobs: int | None = None
    partial: PartialCompletion = PartialCompletion()

    def __post_init__(self) -> None:
        if not self.token_ids:
            msg = "the prompt is empty: expected at least one token"
            raise RequestError(msg)
        check_max_new_tokens(self.max_new_tokens)
        if any(not text for text in self.stop):
            msg = "a stop text is empty: expected at least one character"
            raise RequestError(msg)
        if not 0 <= (self.top_logprobs or 0) <= MAX_TOP_LOGPROBS:
            msg = f"top_logprobs is {_short(self.top_logprobs)}, expected 0 to {MAX_TOP_LOGPROBS}"
            raise RequestError(msg)
        assert len(self.partial.token_ids) < self.max_new_tokens, "already finished"

    @property
    def history(self) -> tuple[int, ...]:
        """Prompt and partial completion, which are prefilled first."""
        return (*self.token_ids, *self.partial.token_ids)

    @property
    def num_left(self) -> int:
        """Largest number of tokens still to generate."""
        return self.max_new_tokens - len(self.partial.token_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The result of a request.

    Attributes:
        token_ids: Generated tokens, an end-of-text token included.
        text: Text that continues the prompt's, without special tokens and without the
            stop text.
        finish_reason: "eos" after an end-of-text token, "stop" at a stop text, "length"
            after `max_new_tokens` tokens, "error" where the model's logits are no numbers.
        prompt_token_ids: Tokens of the prompt.
        logprobs: Log-probabilities of each token, None unless the request asks for them.
        error: Message that says what happened if it ended by an error; None otherwise.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    error: str | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.prompt_token_ids)
