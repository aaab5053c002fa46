"""Reads and writes records as TOML; every error message is one line with a remedy."""

from __future__ import annotations

import re
import reprlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import tomlkit
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_json
from tomlkit.items import AoT, Table

from llmpq_jax.errors import SpecError
from llmpq_jax.files import reading

T = TypeVar("T")

_MAX_MISTAKES = 3
# Records have tables within tables, but not many; deeper ones would end in a recursion.
_MAX_DEPTH = 16
# A key of more parts than tables may be nested. Only starts of words are tried.
_MAX_PARTS = 32
_LONG_KEY = re.compile(rf"""(?<![\w"'.-])(?:[\w"'-]++\s*+\.\s*+){{{_MAX_PARTS}}}""")
_EXPECTED_DEPTH = f"expected at most {_MAX_DEPTH} tables or arrays within each other"
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


def read_record(
    cls: type[T],
    path: Path,
    *,
    what: str,
    error: type[SpecError] = SpecError,
) -> T:
    """Reads a file as a record.

    Args:
        cls: Class made by `record`.
        path: Path of the file.
        what: Name of the kind of file for messages, such as "strategy".
        error: Class of the raised error.

    Raises:
        SpecError: If the file is missing, is not TOML, or does not hold such a record;
            an instance of `error`.
    """
    with reading(path, what, f"a {what} file in TOML", error):
        text = path.read_text(encoding="utf-8")
    where = f"{what} {path}"
    data = parse_toml(text, where=where, error=error)
    return decode_record(cls, data, where=where, error=error, path=path)


def parse_toml(text: str, *, where: str, error: type[SpecError]) -> dict[str, Any]:
    """Returns the data of a text in TOML, or raises `error`."""
    if key := _LONG_KEY.search(text):
        msg = f"{where}: has a key of more than {_MAX_PARTS} parts, {key[0][:40]!r}…: expected fewer"
        raise error(msg)
    try:
        return tomllib.loads(text)
    except RecursionError as reason:
        msg = f"{where}: is nested too deep: {_EXPECTED_DEPTH}"
        raise error(msg) from reason
    except ValueError as reason:
        # Also of a number with thousands of digits.
        msg = f"{where}: is not TOML: {reason}"
        raise error(msg) from reason


def decode_record(
    cls: type[T],
    data: object,
    *,
    where: str,
    error: type[SpecError] = SpecError,
    path: Path | None = None,
) -> T:
    """Makes a record from parsed data; paths in it are relative to the file at `path`."""
    if _is_deep(data):
        msg = f"{where}: is nested too deep: {_EXPECTED_DEPTH}"
        raise error(msg)
    if isinstance(data, dict) and data.get("schema", 1) != 1:
        found = data["schema"]
        msg = f"{where}: schema: found {found!r}, expected 1, the only version there is; update llmpq-jax or write the file again"
        raise error(msg)
    try:
        # Through JSON, so that TOML's lists are accepted as tuples while every other type
        # stays strict.
        encoded = to_json(data, inf_nan_mode="constants")
        return _adapter(cls).validate_json(encoded, context=path)
    except ValidationError as reason:
        mistakes = [_mistake(detail) for detail in reason.errors()]
        more = len(mistakes) - _MAX_MISTAKES
        shown = "; ".join(mistakes[:_MAX_MISTAKES])
        tail = f"; and {more} more" if more > 0 else ""
        msg = f"{where}: {shown}{tail}"
        raise error(msg) from reason


def to_toml(value: object, *, comment: str = "", path: Path | None = None) -> str:
    """Returns a record as TOML: short arrays on one line, absent fields left out.

    For the file at `path`, paths are made relative to it and predictions are rounded.
    """
    plain = _adapter(type(value)).dump_python(
        value, mode="json", by_alias=True, exclude_none=True, context=path
    )
    document = tomlkit.document()
    for line in comment.splitlines():
        document.add(tomlkit.comment(line))
    _fill(document, plain)
    return tomlkit.dumps(document)


@cache
def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _mistake(detail: ErrorDetails) -> str:
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]
    ).removeprefix(".")
    kind = detail["type"]
    if kind == "unexpected_keyword_argument":
        return f"{path}: unknown key; remove it or correct its spelling"
    if kind in {"missing", "missing_keyword_only_argument"}:
        return f"{path}: missing, expected a value"
    message = (
        detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    )
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    expected = message[0].lower() + message[1:]
    return f"{path}: found {_SHORT.repr(detail['input'])}, {expected}"


def _is_deep(data: object) -> bool:
    """Whether tables and arrays are nested deeper than any record's."""
    inside = [data]
    for _ in range(_MAX_DEPTH):
        inside = [
            each
            for outer in inside
            if isinstance(outer, dict | list)
            for each in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(each, dict | list) for each in inside)


def _fill(container: Any, plain: dict[str, Any]) -> None:
    """Adds plain values first and tables after them, as TOML requires."""
    tables: list[tuple[str, Any]] = []
    for key, value in plain.items():
        if isinstance(value, dict) or (
            isinstance(value, list) and value and isinstance(value[0], dict)
        ):
            tables.append((key, value))
        elif value != []:
            container.add(key, value)
    for key, value in tables:
        if isinstance(value, dict):
            container.add(key, _table(value))
        else:
            container.add(key, AoT([_table(row) for row in value]))


def _table(plain: dict[str, Any]) -> Table:
    table = tomlkit.table()
    _fill(table, plain)
    return table
