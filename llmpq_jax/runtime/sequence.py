"""A request while it is served: its tokens and text so far, and whether it is finished."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from llmpq_jax.runtime.generated_text import GeneratedText
from llmpq_jax.runtime.penalties import adjustments
from llmpq_jax.runtime.request import (
    NO_LOGIT_CHANGES,
    Completion,
    FinishReason,
    Request,
    TokenLogprobs,
)

if TYPE_CHECKING:
    import numpy as np

    from llmpq_jax.stage.logit_adjustments import TokenAdjustment
    from llmpq_jax.stage.message import NotFinite
    from llmpq_jax.stage.sampling import Logprobs


class TextDecoder(Protocol):
    """Decodes the tokens of one completion into text, token by token."""

    def add(self, token_id: int) -> str:
        """Takes a token; returns the text that it completes, which may be empty."""
        ...

    def rest(self) -> str:
        """Returns the remaining text at the end, such as half a character."""
        ...

    def special_text(self, token_id: int) -> str:
        """Returns how a special token is written, which no text has; "" for all others."""
        ...


class Constraint(Protocol):
    """A grammar that a text follows, after the tokens that it has so far."""

    def allowed_tokens(self) -> np.ndarray:
        """Returns 32-bit words with a bit for each token that may be next."""
        ...

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow the text any more."""
        ...

    def accept(self, token_id: int) -> None:
        """Takes the next token."""
        ...


class Sequence:
    """The state of one request in a batch.

    Attributes:
        request: Request that is served.
        token_ids: Tokens generated so far.
        logprobs: Log-probabilities of these tokens, empty unless the request asks for
            them.
        prompt_logprobs: Log-probabilities of the prompt's tokens, the first one aside, by
            their positions, as far as they are computed.
        finish_reason: Reason why generation ended, None before.
        not_finite: Place where the model's numbers were first not finite, if that ended
            it and the place was found.
        constraint: Grammar that its text follows, if any.
    """

    def __init__(
        self,
        request: Request,
        *,
        eos_ids: Collection[int],
        decoder: TextDecoder,
        constraint: Constraint | None = None,
    ) -> None:
        """Starts from the request's partial completion, with an unused decoder.

        The constraint is that of the text after the partial completion.
        """
        self.request = request
        self.token_ids = list(request.partial.token_ids)
        self.logprobs: list[TokenLogprobs] = list(request.partial.logprobs)
        self.prompt_logprobs: dict[int, TokenLogprobs] = {}
        self.finish_reason: FinishReason | None = None
        self.not_finite: NotFinite | None = None
        self.constraint = constraint
        # After a text that follows a grammar nothing but an end token may come.
        ignores_eos = request.ignores_eos and constraint is None
        self._eos_ids = () if ignores_eos else eos_ids
        self._decoder = decoder
        self._text = GeneratedText(request.stop)
        self._num_decoded = 0

    @property
    def is_finished(self) -> bool:
        """Whether generation has ended."""
        return self.finish_reason is not None

    def append(self, token_id: int) -> None:
        """Appends the next token; does nothing if generation has ended."""
        if self.is_finished:
            return
        self.token_ids.append(token_id)
        if token_id in self._eos_ids:
            self.finish_reason = "eos"
        elif self._ends_grammar(token_id):
            self.finish_reason = "stop"
        elif not self.num_left:
            self.finish_reason = "length"
        # Stop texts need the text at once. Otherwise it is decoded at the end, so that the
        # stages do not wait for it.
        if self.request.stop and self._decode():
            self.finish_reason = "stop"

    def _ends_grammar(self, token_id: int) -> bool:
        """Whether nothing may follow a token that is appended."""
        if self.constraint is None:
            return False
        self.constraint.accept(token_id)
        return self.constraint.is_finished

    def fail(self, found: NotFinite | None) -> None:
        """Ends generation because the model's logits are not finite."""
        self.finish_reason = "error"
        self.not_finite = found

    def cancel(self) -> None:
        """Ends generation because nobody waits for it; does nothing if it has ended."""
        self.finish_reason = self.finish_reason or "cancelled"

    def append_logprobs(self, logprobs: Logprobs, row: int) -> None:
        """Appends the log-probabilities of the next token, if the request asks for them."""
        if self.request.top_logprobs is not None:
            self.logprobs.append(self._logprobs_of(logprobs, row))

    def add_prompt_logprobs(self, logprobs: Logprobs, first_position: int) -> None:
        """Adds those of the tokens that follow some of the prompt's, from a first one on."""
        if not self.request.wants_prompt_logprobs:
            return
        end = min(
            len(self.request.token_ids), first_position + 1 + len(logprobs.token_B)
        )
        for position in range(first_position + 1, end):
            row = position - first_position - 1
            self.prompt_logprobs[position] = self._logprobs_of(logprobs, row)

    def _logprobs_of(self, logprobs: Logprobs, row: int) -> TokenLogprobs:
        count = self.request.top_logprobs or 0
        top_tokens = zip(
            logprobs.top_token_BK[row, :count],
            logprobs.top_logprob_BK[row, :count],
            strict=True,
        )
        return TokenLogprobs(
            logprob=float(logprobs.logprob_B[row]),
            top_tokens=tuple(
                (int(token), float(logprob)) for token, logprob in top_tokens
            ),
        )

    @property
    def is_adjusted(self) -> bool:
        """Whether its tokens are not chosen from the model's own logits."""
        return self.request.changes_logits

    def adjustments(self) -> dict[int, TokenAdjustment]:
        """Returns how the logits of tokens are changed before the next one is chosen."""
        changes = self.request.logit_changes
        if changes == NO_LOGIT_CHANGES:
            return {}
        return adjustments(changes, self.request.token_ids, self.token_ids)

    def allowed_tokens(self) -> np.ndarray | None:
        """Returns a bit for each token that may be next; None if all may."""
        return None if self.constraint is None else self.constraint.allowed_tokens()

    @property
    def history(self) -> tuple[int, ...]:
        """Prompt and generated tokens, which are prefilled to continue the sequence."""
        return (*self.request.token_ids, *self.token_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated in this run, without those of the partial completion."""
        return len(self.token_ids) - len(self.request.partial.token_ids)

    @property
    def num_left(self) -> int:
        """Largest number of tokens still to generate."""
        return self.request.max_new_tokens - len(self.token_ids)

    def completion(self) -> Completion:
        """Returns the completion of a finished sequence; to be called once."""
        assert self.finish_reason is not None
        if not self.request.stop:
            self._decode()
        return Completion(
            token_ids=tuple(self.token_ids),
            text=self._text.text,
            finish_reason=self.finish_reason,
            prompt_token_ids=self.request.token_ids,
            logprobs=None
            if self.request.top_logprobs is None
            else tuple(self.logprobs),
            prompt_logprobs=tuple(
                self.prompt_logprobs[position]
                for position in sorted(self.prompt_logprobs)
            )
            if self.request.wants_prompt_logprobs
            else None,
        )

    def _decode(self) -> bool:
        """Decodes the tokens that are not decoded yet; returns whether a stop text appeared.

        End-of-text tokens have no text.
        """
        for token_id in self.token_ids[self._num_decoded :]:
            self._num_decoded += 1
            has_text = token_id not in self._eos_ids
            text = self._decoder.add(token_id) if has_text else ""
            if self._text.add(text, self._decoder.special_text(token_id)):
                return True
        return self.is_finished and self._text.add(self._decoder.rest())


class WaitingQueue:
    """Sequences in the order in which they get slots; true while there are any.

    They may be more than memory holds: only the next one is read ahead.
    """

    def __init__(self, sequences: Iterable[Sequence]) -> None:
        """Reads the first sequence."""
        self._sequences = iter(sequences)
        self._next = next(self._sequences, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def pop(self) -> Sequence:
        """Removes and returns the next sequence."""
        assert self._next is not None, "no sequence waits"
        popped, self._next = self._next, next(self._sequences, None)
        return popped
