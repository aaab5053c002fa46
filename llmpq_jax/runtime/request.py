"""Requests and their completions."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, replace
from typing import Literal

from llmpq_jax.errors import RequestError

GrammarKind = Literal["json_schema", "regex", "choice", "lark", "calls"]
FinishReason = Literal["eos", "stop", "length", "error", "cancelled"]
# The same as in `stage.sampling`, which imports JAX.
MAX_TOP_LOGPROBS = 20
# OpenAI's maximum too.
MAX_BIASED_TOKENS = 300
_MAX_REPETITION_PENALTY = 1e4
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
        min_p: Smallest probability to draw, relative to that of the likeliest token; 0
            for all.
        seed: Seed of the request's random numbers, an integer of 64 bits; the same seed
            gives the same text in every batch.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
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
        if not 0 <= self.min_p <= 1:
            msg = f"min_p is {_short(self.min_p)}, expected 0 to 1"
            raise RequestError(msg)
        if not -_SEED_LIMIT <= self.seed < _SEED_LIMIT:
            msg = f"seed is {_short(self.seed)}, expected {-_SEED_LIMIT} to {_SEED_LIMIT - 1}"
            raise RequestError(msg)

    def with_next_seed(self, steps: int) -> Sampling:
        """Returns the parameters with a later seed; the first follows the last one."""
        seed = (self.seed + steps + _SEED_LIMIT) % (2 * _SEED_LIMIT) - _SEED_LIMIT
        return replace(self, seed=seed)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitChanges:
    """What a request changes of the logits before a token is chosen.

    Attributes:
        bias: Tokens, and the number that is added to the logit of each.
        presence_penalty: Number that is subtracted for each generated token.
        frequency_penalty: Number that is subtracted for each time a token was generated.
        repetition_penalty: Factor by which tokens of the prompt and generated ones become
            less likely (arXiv 1909.05858, section 4.1); 1 for none.
    """

    bias: tuple[tuple[int, float], ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if len(self.bias) > MAX_BIASED_TOKENS:
            msg = f"logit_bias has {len(self.bias)} tokens, expected at most {MAX_BIASED_TOKENS}"
            raise RequestError(msg)
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= (value := getattr(self, name)) <= 2:
                msg = f"{name} is {_short(value)}, expected -2 to 2"
                raise RequestError(msg)
        if not 0 < self.repetition_penalty <= _MAX_REPETITION_PENALTY:
            msg = f"repetition_penalty is {_short(self.repetition_penalty)}, expected above 0, at most {_MAX_REPETITION_PENALTY}"
            raise RequestError(msg)
        for token_id, value in self.bias:
            if not -100 <= value <= 100:
                msg = f"logit_bias of token {token_id} is {_short(value)}, expected -100 to 100"
                raise RequestError(msg)


NO_LOGIT_CHANGES = LogitChanges()


@dataclass(frozen=True, kw_only=True, slots=True)
class Grammar:
    """A grammar that a text follows.

    Attributes:
        kind: Language of the grammar.
        content: Grammar in that language; of "choice" the texts, as a JSON list; of "calls"
            the arguments of `call_grammar.calls_grammar`, as JSON.
        field: Field of the request that asks for it, for messages.
    """

    kind: GrammarKind
    content: str
    field: str = "response_format"


def check_max_new_tokens(count: int, name: str = "max_new_tokens") -> None:
    """Refuses a number of tokens that devices cannot count to, by the field's name.

    Raises:
        RequestError: If it is less than 1 or no int32.
    """
    if not 1 <= count <= _MAX_COUNT:
        msg = f"{name} is {_short(count)}, expected 1 to {_MAX_COUNT}"
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
        wants_prompt_logprobs: Whether log-probabilities of the prompt's tokens are
            returned too.
        logit_changes: Biases and penalties.
        grammar: Grammar that the text follows, if any.
        partial: Tokens generated before this run, which continues after them.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    ignores_eos: bool = False
    top_logprobs: int | None = None
    wants_prompt_logprobs: bool = False
    logit_changes: LogitChanges = NO_LOGIT_CHANGES
    grammar: Grammar | None = None
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
    def changes_logits(self) -> bool:
        """Whether tokens are not chosen from the model's own logits."""
        return self.logit_changes != NO_LOGIT_CHANGES or self.grammar is not None

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
            after `max_new_tokens` tokens, "error" where the model's logits are no numbers,
            "cancelled" if nobody waits for it any more.
        prompt_token_ids: Tokens of the prompt.
        logprobs: Log-probabilities of each token, None unless the request asks for them.
        prompt_logprobs: Log-probabilities of each token of the prompt but the first, None
            unless the request asks for them.
        error: Message that says what happened if it ended by an error; None otherwise.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    prompt_token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    error: str | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.prompt_token_ids)
