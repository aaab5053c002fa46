"""Decodes the tokens that continue a prompt into text, one by one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple, Protocol

# What an unfinished character is decoded to.
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# A character has at most four bytes, and so at most four tokens.
_MAX_CHARACTER_TOKENS = 4
# Last tokens of a prompt that its continuation is decoded with. The first of them may
# lose a leading space, so there are more than a character has.
_MAX_CONTEXT_TOKENS = 2 * _MAX_CHARACTER_TOKENS


class Vocabulary(Protocol):
    """What decoding needs of a tokenizer."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Returns the text of tokens, without special ones."""
        ...

    def has_text(self, token_id: int) -> bool:
        """Whether a token is part of a text: it is in the vocabulary and not special."""
        ...

    def special_text(self, token_id: int) -> str:
        """Returns how a special token is written; "" for all others."""
        ...

    def token_bytes(self, token_id: int) -> bytes | None:
        """Returns the bytes of a token by itself; None if it is not in the vocabulary."""
        ...


class TokenText(NamedTuple):
    """What a token adds to a text.

    Attributes:
        text: Text that the token completes; "" for a part of a character that others
            complete.
        own_bytes: Bytes that the token adds; None if it has no text, as a special token.
    """

    text: str
    own_bytes: bytes | None


class TextDecoder:
    """Decodes a continuation token by token, holding unfinished characters back.

    What a token adds is the difference of two texts, with and without it, because it
    depends on the tokens before: a space at the start of a text is dropped, and bytes
    form characters. A short window of them is enough. Joined, the parts continue the
    prompt's text; if that ends within a character, the first part has the whole one.
    """

    def __init__(self, vocabulary: Vocabulary, prompt_ids: Sequence[int] = ()) -> None:
        """Starts after a prompt, of which only the end is read."""
        self._vocabulary = vocabulary
        self._window = _context(vocabulary, prompt_ids)
        self._num_shown = len(self._window)
        self._shown_text = vocabulary.decode(self._window)
        self._whole_text = _without_part(vocabulary, self._window)

    def add(self, token_id: int) -> str:
        """Adds a token; returns the text it completed, possibly empty."""
        if not self._vocabulary.has_text(token_id):
            return ""
        text, num_ready = self._next(token_id)
        self._window.append(token_id)
        if num_ready > self._num_shown:
            if text:
                del self._window[: self._num_shown]
                num_ready -= self._num_shown
            self._num_shown = num_ready
            self._shown_text = self._vocabulary.decode(self._window[:num_ready])
            self._whole_text = self._shown_text
        return text

    def rest(self) -> str:
        """Returns the text that is held back, such as half a character."""
        return self._continuation(self._vocabulary.decode(self._window))

    def token_text(self, token_id: int) -> TokenText:
        """Returns what a token would add if it were the next one."""
        vocabulary = self._vocabulary
        if not vocabulary.has_text(token_id):
            return TokenText("", None)
        text, num_ready = self._next(token_id)
        starts_whole = (
            len(self._window) == self._num_shown
            and self._shown_text == self._whole_text
        )
        ends_whole = num_ready > len(self._window)
        if starts_whole and ends_whole and _UNFINISHED not in text:
            return TokenText(text, text.encode())
        return TokenText(text, vocabulary.token_bytes(token_id))

    def special_text(self, token_id: int) -> str:
        """Returns how a special token is written, which no text has; "" for all others."""
        return self._vocabulary.special_text(token_id)

    def _next(self, token_id: int) -> tuple[str, int]:
        """Returns the text that a token completes, and the tokens of the window up to there."""
        window = [*self._window, token_id]
        num_ready = len(window)
        text = self._vocabulary.decode(window)
        if text.endswith(_UNFINISHED):
            # All but the last few tokens are not part of the unfinished character.
            num_ready -= _MAX_CHARACTER_TOKENS - 1
            if num_ready <= self._num_shown:
                return "", self._num_shown
            ready = self._vocabulary.decode(window[:num_ready])
            if not text.startswith(ready):
                return "", self._num_shown
            text = ready
        return self._continuation(text), num_ready

    def _continuation(self, text: str) -> str:
        """Returns what the text of the window has after the text that was shown."""
        if text.startswith(self._shown_text):
            return text[len(self._shown_text) :]
        # The prompt ends within a character, which is whole now.
        return text[len(self._whole_text) :]


def _context(vocabulary: Vocabulary, prompt_ids: Sequence[int]) -> list[int]:
    """Returns the last tokens of a prompt, from the start of a character on."""
    context: list[int] = []
    for token_id in reversed(prompt_ids):
        if len(context) == _MAX_CONTEXT_TOKENS:
            break
        if vocabulary.has_text(token_id):
            context.insert(0, token_id)
    for start in range(min(len(context), _MAX_CHARACTER_TOKENS)):
        first_byte = (vocabulary.token_bytes(context[start]) or b" ")[0]
        if not _is_later_byte(first_byte):
            return context[start:]
    return context


def _is_later_byte(byte: int) -> bool:
    """Whether UTF-8 has this byte after the first one of a character."""
    return byte >> 6 == 0b10


def _without_part(vocabulary: Vocabulary, token_ids: Sequence[int]) -> str:
    """Returns the text of tokens without the character that they begin and do not end."""
    pieces = [vocabulary.token_bytes(token_id) or b"" for token_id in token_ids]
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(b"".join(pieces))
    part, _ = decoder.getstate()
    last = b""
    while len(last) < len(part):
        last = pieces.pop() + last
    before = last[: len(last) - len(part)].decode(errors="replace")
    return vocabulary.decode(token_ids[: len(pieces)]) + before
