"""Text to measure losses on, cut into windows of tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.files import reading


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Text:
    """Consecutive windows of equal length of a text.

    Attributes:
        name: File name, shown to users.
        digest: SHA-256 of the file.
        tokens: Tokens of each window, [W, T]; all but the first of a window are predicted.
        num_bytes: Bytes of the predicted tokens' text in UTF-8.
    """

    name: str
    digest: str
    tokens: Int[np.ndarray, "W T"]
    num_bytes: int

    @property
    def num_predicted(self) -> int:
        """Number of predicted tokens: all but the first of each window."""
        num_windows, length = self.tokens.shape
        return num_windows * (length - 1)


def read_text(
    path: Path, tokenizer: Tokenizer, *, window: int, max_tokens: int | None = None
) -> Text:
    """Reads a text file and cuts it into windows.

    Tokens that do not fill a last window are left out. If the text is longer than
    `max_tokens`, windows are taken at even distances. It may contain special tokens.

    Raises:
        RequestError: If the file cannot be read, or does not fill a window.
    """
    with reading(path, "text", "a text file", RequestError):
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    tokens = np.asarray(tokenizer.encode(text), np.int32)
    num_windows = len(tokens) // window
    if num_windows == 0:
        msg = f"text {path}: has {len(tokens)} tokens: expected at least {window}, one window; give more text or a smaller --window"
        raise RequestError(msg)
    windows = tokens[: num_windows * window].reshape(num_windows, window)
    if max_tokens is not None and windows.size > max_tokens:
        kept = max(1, max_tokens // window)
        windows = windows[np.arange(kept) * num_windows // kept]
    return Text(
        name=path.name,
        digest=hashlib.sha256(raw).hexdigest(),
        tokens=windows,
        num_bytes=sum(
            len(tokenizer.decode(row[1:].tolist()).encode()) for row in windows
        ),
    )
