"""Reads a file of prompt and reply lengths."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path

from llmpq_jax.errors import RequestError
from llmpq_jax.files import reading
from llmpq_jax.schema.workload import MAX_NEW_TOKENS, MAX_PROMPTS, MAX_TOKENS

_EXPECTED = 'JSON such as {"pairs": [[32, 518], [65, 640]]}, tokens of a prompt and of its reply'


def read_lengths(path: Path) -> list[tuple[int, int]]:
    """Reads pairs of prompt and reply lengths in tokens, one or more.

    Raises:
        RequestError: The file cannot be read, or has something else in it.
    """
    with reading(path, "lengths", _EXPECTED, RequestError):
        text = path.read_text("utf-8")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as reason:
        msg = f"lengths {path}: is not JSON ({reason}): expected {_EXPECTED}"
        raise RequestError(msg) from reason
    rows = content.get("pairs") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_PROMPTS:
        msg = f"lengths {path}: has no list of pairs: expected {_EXPECTED}"
        raise RequestError(msg)
    pairs: list[tuple[int, int]] = []
    for number, row in enumerate(rows, start=1):
        if not _is_pair(row):
            msg = f"lengths {path}: pair {number} is {reprlib.repr(row)}: expected two whole numbers from 1 up, tokens of a prompt and of its reply"
            raise RequestError(msg)
        pairs.append((row[0], row[1]))
    return pairs


def _is_pair(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 2
        and all(type(number) is int for number in row)
        and 1 <= row[0] <= MAX_TOKENS
        and 1 <= row[1] <= MAX_NEW_TOKENS
    )
