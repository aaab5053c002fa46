"""Turns failures to read a file into messages of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmpq_jax.errors import LlmpqError


@contextmanager
def reading(
    path: Path, what: str, expected: str, error: type[LlmpqError]
) -> Iterator[None]:
    """Turns a body's failures to read a file, or to decode its text, into an `error`.

    Its message names the kind of file, `what`, and what was expected instead.
    """
    try:
        yield
    except OSError as reason:
        msg = f"{what} {path}: cannot be read ({reason.strerror or reason}): expected {expected}"
        raise error(msg) from reason
    except UnicodeDecodeError as reason:
        msg = f"{what} {path}: is not UTF-8 text (byte {reason.start}): expected {expected}"
        raise error(msg) from reason
