"""Values as JSON, which has no numbers that are not finite."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Any


def json_text(
    value: Any, *, indent: int | None = None, ensure_ascii: bool = True
) -> str:
    """Returns a value as JSON. Numbers that are not finite, which it lacks, become null."""
    dump = partial(
        json.dumps, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False
    )
    try:
        return dump(value)
    except ValueError:
        return dump(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
