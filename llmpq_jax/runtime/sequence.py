"""A request while it is served: its tokens so far, its text, whether it has ended."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from llmpq_jax.runtime.request import (
    Completion,
    FinishReason,
    Request,
    TokenLogprobs,
)


class TextDecoder(Protocol):
    """Turns the tokens of one continuation into text, one by one."""

    def add(self, token_id: int) -> str:
        """Takes a token; returns the text it completed, perhaps none."""
        ...

    def rest(self) -> str:
        """Returns what is left at the end, such as half a character."""
        ...


class Sequence:
    """One request in a batch."""

    def __init__(
        self, request: Request, *, eos_ids: Collection[int], decoder: TextDecoder
    ) -> None:
        self.request = request
        self.token_ids = list(request.begun.token_ids)
        self.logprobs: list[TokenLogprobs] = list(request.begun.logprobs)
        self.finish_reason: FinishReason | None = None
        self._eos_ids = () if request.ignores_eos else eos_ids
        self._decoder = decoder
        self._text = ""
        self._num_decoded = 0

    @property
    def is_finished(self) -> bool:
        """Whether it needs no more tokens."""
        return self.finish_reason is not None

    def add(self, token_id: int) -> None:
        """Takes the next token; does nothing once it is finished."""
        if self.is_finished:
            return
        self.token_ids.append(token_id)
        if token_id in self._eos_ids:
            self._end("eos")
            return
        # Only stop texts need the text at once: what is not decoded here does not keep
        # the stages waiting.
        if self.request.stop:
            self._decode_text()
            if self._cut_at_stop():
                self.finish_reason = "stop"
                return
        if not self.num_left:
            self._end("length")

    @property
    def history(self) -> tuple[int, ...]:
        """Its prompt and the tokens so far: what is prefilled to go on with it."""
        return (*self.request.token_ids, *self.token_ids)

    @property
    def num_taken(self) -> int:
        """New tokens that came here, beyond what it had already."""
        return len(self.token_ids) - len(self.request.begun.token_ids)

    @property
    def num_left(self) -> int:
        """New tokens it may still take."""
        return self.request.max_new_tokens - len(self.token_ids)

    def completion(self) -> Completion:
        """Returns what became of it; to be called once it is finished."""
        assert self.finish_reason is not None
        if not self.request.stop:
            self._decode_text()
            self._text += self._decoder.rest()
        return Completion(
            token_ids=tuple(self.token_ids),
            text=self._text,
            finish_reason=self.finish_reason,
            num_prompt_tokens=len(self.request.token_ids),
            logprobs=None
            if self.request.top_logprobs is None
            else tuple(self.logprobs),
        )

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        if self.request.stop:
            self._text += self._decoder.rest()
            if self._cut_at_stop():
                self.finish_reason = "stop"

    def _decode_text(self) -> None:
        """Decodes the tokens that have not been; an end token has no text."""
        for token_id in self.token_ids[self._num_decoded :]:
            if token_id not in self._eos_ids:
                self._text += self._decoder.add(token_id)
        self._num_decoded = len(self.token_ids)

    def _cut_at_stop(self) -> bool:
        places = [
            place for stop in self.request.stop if (place := self._text.find(stop)) >= 0
        ]
        if places:
            self._text = self._text[: min(places)]
        return bool(places)
