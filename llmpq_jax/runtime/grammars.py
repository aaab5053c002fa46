"""Grammars that texts follow, compiled by llguidance to the tokens that may come next."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.files import json_text
from llmpq_jax.runtime.call_grammar import calls_grammar
from llmpq_jax.runtime.request import Grammar, Request
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.stage.logit_adjustments import num_words

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# As texts that models were trained on have it; any other white space is refused, because a
# model may write it without end.
_JSON_STYLE: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


class GrammarConstraint:
    """The tokens that may come next in a text that follows a grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary_size: int) -> None:
        """Takes a matcher that has seen no token."""
        self._matcher = matcher
        self._words = np.zeros((1, num_words(vocabulary_size)), np.int32)

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow the text any more."""
        return self._matcher.is_stopped()

    def allowed_tokens(self) -> np.ndarray:
        """Returns 32-bit words with a bit for each token that may be next."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._words)
        return self._words[0]

    def accept(self, token_id: int) -> None:
        """Takes the next token."""
        self._matcher.consume_token(token_id)


class SequenceMaker:
    """Makes sequences of requests, with the grammars that they ask for."""

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int) -> None:
        """Takes the model's tokenizer, and the number of its logits."""
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size

    def sequence(self, request: Request) -> Sequence:
        """Returns the state of a request before it is served.

        Raises:
            RequestError: Its grammar cannot be compiled.
        """
        grammar = request.grammar
        constraint = None if grammar is None else self.constraint(grammar)
        if constraint is not None:
            for token_id in request.partial.token_ids:
                constraint.accept(token_id)
        return Sequence(
            request,
            eos_ids=self._tokenizer.eos_ids,
            decoder=self._tokenizer.text_decoder(request.token_ids),
            constraint=constraint,
        )

    def constraint(self, grammar: Grammar) -> GrammarConstraint:
        """Compiles a grammar.

        Raises:
            RequestError: It is no grammar, or llguidance is not installed.
        """
        try:
            from llguidance import LLMatcher
        except ModuleNotFoundError as reason:
            msg = "a response format needs llguidance, which is not installed: expected it from `pip install 'llmpq-jax[structured]'`"
            raise RequestError(msg) from reason
        try:
            matcher = LLMatcher(
                self._grammar_tokenizer, _compiled(grammar), log_level=0
            )
        except (ValueError, TypeError) as reason:
            raise _refusal(grammar, str(reason)) from reason
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        return GrammarConstraint(matcher, self._vocabulary_size)

    @cached_property
    def _grammar_tokenizer(self) -> LLTokenizer:
        from llguidance.hf import from_tokenizer

        tokenizer: Any = self._tokenizer.library_tokenizer
        try:
            return from_tokenizer(
                tokenizer,
                n_vocab=self._vocabulary_size,
                eos_token=list(self._tokenizer.eos_ids) or None,
            )
        except (ValueError, AttributeError) as reason:
            msg = f"a response format needs a tokenizer.json, which the model does not have ({reason}): expected no response format"
            raise RequestError(msg) from reason


def _compiled(grammar: Grammar) -> str:
    """Returns a grammar in llguidance's own form."""
    from llguidance import LLMatcher

    match grammar.kind:
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(
                grammar.content, overrides=_JSON_STYLE
            )
        case "regex":
            return LLMatcher.grammar_from_regex(grammar.content)
        case "lark":
            return LLMatcher.grammar_from_lark(grammar.content)
        case "calls":
            asked = json.loads(grammar.content)
            return LLMatcher.grammar_from_lark(
                calls_grammar(**asked, json_style=_JSON_STYLE)
            )
        case "choice":
            choices = " | ".join(map(json_text, json.loads(grammar.content)))
            if not choices:
                msg = "there is no choice"
                raise ValueError(msg)
            return LLMatcher.grammar_from_lark(f"start: {choices}")


def _refusal(grammar: Grammar, reason: str) -> RequestError:
    first_line = (reason.strip().splitlines() or ["no reason given"])[0]
    return RequestError(
        f"{grammar.field}: the {grammar.kind.replace('_', ' ')} cannot be compiled ({first_line[:300]})"
    )
