"""A request while it is served: its tokens and text so far, and whether it is finished."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Protocol

from llmpq_jax.runtime.generated_text import GeneratedText
from llmpq_jax.runtime.request import Completion, FinishReason, Request, TokenLogprobs

if TYPE_CHECKING:
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


class Sequence:
    """The state of one request in a batch.

    Attributes:
        request: Request that is served.
        token_ids: Tokens generated so far.
        logprobs: Log-probabilities of these tokens, empty unless the request asks for
            them.
        finish_reason: Reason why generation ended, None before.
        not_finite: Place where the model's numbers were first not finite, if that ended
            it and the place was found.
    """

    def __init__(
        self, request: Request, *, eos_ids: Collection[int], decoder: TextDecoder
    ) -> None:
        """Starts from the request's partial completion, with an unused decoder."""
        self.request = request
        self.token_ids = list(request.partial.token_ids)
        self.logprobs: list[TokenLogprobs] = list(request.partial.logprobs)
        self.finish_reason: FinishReason | None = None
        self.not_finite: NotFinite | None = None
        self._eos_ids = () if request.ignores_eos else eos_ids
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
        elif not self.num_left:
            self.finish_reason = "length"
        # Stop texts need the text at once. Otherwise it is decoded at the end, so that the
        # stages do not wait for it.
        if self.request.stop and self._decode():
            self.finish_reason = "stop"

    def fail(self, found: NotFinite | None) -> None:
        """Ends generation because the model's logits are not finite."""
        self.finish_reason = "error"
        self.not_finite = found

    def append_logprobs(self, logprobs: Logprobs, row: int) -> None:
        """Appends the log-probabilities of the next token, if the request asks for them."""
        count = self.request.top_logprobs
        if count is None:
            return
        top_tokens = zip(
            logprobs.top_token_BK[row, :count],
            logprobs.top_logprob_BK[row, :count],
            strict=True,
        )
        self.logprobs.append(
            TokenLogprobs(
                logprob=float(logprobs.logprob_B[row]),
                top_tokens=tuple(
                    (int(token), float(logprob)) for token, logprob in top_tokens
                ),
            )
        )

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
