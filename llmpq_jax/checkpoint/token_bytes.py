"""Bytes of single tokens, by their pieces in the vocabulary.

A token may be a part of a character. It has no text then, but it has bytes: byte-level
vocabularies write each byte as a printable character, those of SentencePiece write it as
`<0xNN>`, and spaces as `▁`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Bytes of the tokens of a vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Reads how the tokenizer's decoder turns pieces into bytes."""
        self._tokenizer = tokenizer
        self._byte_of: dict[str, int] = {}
        self._replaced: list[tuple[str, str]] = []
        self._has_byte_pieces = False
        for step in _decoder_steps(tokenizer):
            match step:
                case {"type": "ByteLevel"}:
                    self._byte_of = _byte_alphabet()
                case {"type": "ByteFallback"}:
                    self._has_byte_pieces = True
                case {"type": "Metaspace", "replacement": str(space)}:
                    self._replaced.append((space, " "))
                case {
                    "type": "Replace",
                    "pattern": {"String": str(pattern)},
                    "content": str(content),
                }:
                    self._replaced.append((pattern, content))
                case _:
                    pass  # It changes the ends of texts, not single pieces.

    def of(self, token_id: int) -> bytes | None:
        """Returns a token's bytes; None if it is not in the vocabulary."""
        piece: Any = self._tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:
            return None
        if self._byte_of and all(letter in self._byte_of for letter in piece):
            return bytes(self._byte_of[letter] for letter in piece)
        if self._has_byte_pieces and (found := _BYTE_PIECE.fullmatch(piece)):
            return bytes.fromhex(found[1])
        for pattern, content in self._replaced:
            piece = piece.replace(pattern, content)
        return piece.encode()


def _byte_alphabet() -> dict[str, int]:
    """Returns the byte of each character of byte-level pieces."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def _decoder_steps(tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    """Yields the steps of a decoder, as tokenizer.json describes them."""
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return
    steps = [json.loads(backend.decoder.__getstate__())]
    while steps:
        step = steps.pop(0)
        steps[:0] = step.get("decoders", [])
        yield step
