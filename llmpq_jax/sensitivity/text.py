"""Text to judge by, cut into windows of tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Text:
    """Windows of equal length, one behind the other in a text.

    Attributes:
        name: Of the file, for people.
        digest: SHA-256 of the file.
        tokens: Of each window; the first of each is only read, the others foretold.
        num_bytes: Of UTF-8 that the tokens foretold say.
    """

    name: str
    digest: str
    tokens: Int[np.ndarray, "W T"]
    num_bytes: int

    @property
    def num_predicted(self) -> int:
        """Tokens that have one before them in their window."""
        num_windows, length = self.tokens.shape
        return num_windows * (length - 1)


def read_text(
    path: Path, tokenizer: Tokenizer, *, window: int, max_tokens: int | None = None
) -> Text:
    """Reads a text file and cuts it into windows.

    What does not fill a last window is left out; of a long text, windows are taken at
    even distances.

    Args:
        path: UTF-8 text; the tokenizer's own marks between documents are understood.
        tokenizer: Of the model.
        window: Tokens of each window, at least 2.
        max_tokens: In all windows together; all of the text where absent.

    Raises:
        RequestError: The file cannot be read, or does not fill a window.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except OSError as reason:
        msg = f"text {path}: cannot be read ({reason.strerror or reason}): expected a text file"
        raise RequestError(msg) from reason
    except UnicodeDecodeError as reason:
        msg = f"text {path}: is not UTF-8 text (byte {reason.start}): expected a text file"
        raise RequestError(msg) from reason
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
