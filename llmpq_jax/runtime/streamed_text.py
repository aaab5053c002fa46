"""The text of a continuation while it is generated, in parts that are never taken back."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llmpq_jax.runtime.generated_text import GeneratedText
from llmpq_jax.runtime.sequence import TextDecoder


class StreamedText:
    """Parts of a text, which joined are the text of the completion.

    What may be the start of a stop text is held back until it is known, as are unfinished
    characters.
    """

    def __init__(
        self, decoder: TextDecoder, stop: tuple[str, ...], *, eos_ids: Collection[int]
    ) -> None:
        """Takes an unused decoder; tokens of `eos_ids` have no text."""
        self._decoder = decoder
        self._text = GeneratedText(stop)
        self._eos_ids = eos_ids
        self._is_stopped = False
        self._num_shown = 0

    def add(self, token_ids: Iterable[int]) -> str:
        """Adds tokens; returns the part of the text that they settle, perhaps empty."""
        for token_id in token_ids:
            if self._is_stopped:
                break
            text = "" if token_id in self._eos_ids else self._decoder.add(token_id)
            self._is_stopped = self._text.add(
                text, self._decoder.special_text(token_id)
            )
        end = len(self._text.text) if self._is_stopped else self._text.num_settled
        return self._show(self._text.text, end)

    def rest(self, text: str) -> str:
        """Returns what the text of the finished completion has after all parts so far."""
        return self._show(text, len(text))

    def _show(self, text: str, end: int) -> str:
        part = text[self._num_shown : end]
        self._num_shown += len(part)
        return part
