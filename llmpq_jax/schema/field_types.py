"""Types of fields that a file holds in another form than a record.

The context of reading and writing is the path of the file; None where there is no file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
)

from llmpq_jax.units import GIB, MIB, parse_bytes


def file_key(cls: type[Any], field: str) -> str:
    """Returns the name of a record's field in the file: its alias, or its own name."""
    hint = get_type_hints(cls, include_extras=True)[field]
    aliases = (getattr(extra, "alias", None) for extra in get_args(hint)[1:])
    return next(filter(None, aliases), field)


def _from_file(found: str, info: ValidationInfo) -> str:
    """Returns a path in a file as a path from the working directory."""
    if info.context is None or Path(found).is_absolute():
        return found
    return os.path.normpath(info.context.parent / found)


def _to_file(path: str, info: SerializationInfo) -> str:
    """Returns a path as it is written in a file; absolute ones do not change."""
    if info.context is None or Path(path).is_absolute():
        return path
    return Path(os.path.relpath(path, info.context.parent)).as_posix()


def _with_six_digits(value: float, info: SerializationInfo) -> float:
    is_rounded = info.context is not None and isinstance(value, float)
    return float(f"{value:.6g}") if is_rounded else value


def _read_bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _write_bytes(value: int) -> str | int:
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if value and value % size == 0:
            return f"{value // size} {unit}"
    return value


# Path that is relative to the file's folder in the file, unless it is absolute.
FilePath = Annotated[
    str, AfterValidator(_from_file), PlainSerializer(_to_file, when_used="json")
]
# Number that is written to six significant digits, more than can be measured.
Predicted = Annotated[float, PlainSerializer(_with_six_digits, when_used="json")]
Bytes = Annotated[
    int, BeforeValidator(_read_bytes), PlainSerializer(_write_bytes, when_used="json")
]
