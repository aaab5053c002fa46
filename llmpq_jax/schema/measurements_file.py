"""Reads measurements files, complete or still growing, and writes them row by row.

A file starts with a header, followed by rows in the order in which they were measured:

    [[layer]]
    kind = "A100-40"
    ...
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from llmpq_jax.errors import MeasurementError
from llmpq_jax.files import reading
from llmpq_jax.schema.field_types import file_key
from llmpq_jax.schema.measurements import Measurements, Row
from llmpq_jax.schema.toml import decode_record, parse_toml, to_toml

# Names of a row's table in the file and of its field in `Measurements`.
_TABLES: dict[type[Row], tuple[str, str]] = {
    get_args(hint)[0]: (file_key(Measurements, field), field)
    for field, hint in get_type_hints(Measurements).items()
    if get_origin(hint) is tuple
}
_COMMENT = """\
Measurements of llmpq-jax, one row per measurement, in the order in which they were made.
Written by `llmpq-jax profile`, which continues an unfinished file."""


def read_measurements(path: Path) -> Measurements:
    """Reads the measurements that a file holds so far.

    A last row that an interruption truncated is ignored, and tables that are not there
    yet are empty: what needs their rows reports which are missing.

    Raises:
        MeasurementError: If the file is missing or does not hold measurements.
    """
    where = f"measurements {path}"
    found = parse_toml(finished_text(path), where=where, error=MeasurementError)
    data = {table: [] for table, _ in _TABLES.values()} | found
    return decode_record(Measurements, data, where=where, error=MeasurementError)


def finished_text(path: Path) -> str:
    """Returns a file's text without a truncated last row.

    Raises:
        MeasurementError: If the file is missing or is not text.
    """
    expected = "a measurements file in TOML; make one with `llmpq-jax profile`"
    with reading(path, "measurements", expected, MeasurementError):
        content = path.read_bytes()
        # A truncated number is still a number, so only complete lines count.
        text = content[: content.rfind(b"\n") + 1].decode()
    start = text.rfind("\n[[") + 1
    return text[:start] if start and _is_truncated(text[start:]) else text


def header_text(measurements: Measurements) -> str:
    """Returns the part of a measurements file before all rows."""
    without: dict[str, Any] = {field: () for _, field in _TABLES.values()}
    header = replace(measurements, **without)
    return to_toml(header, comment=_COMMENT)


def row_text(row: Row) -> str:
    """Returns one row as the file has it."""
    table, _ = _TABLES[type(row)]
    return f"\n[[{table}]]\n{to_toml(row)}"


def with_row(measurements: Measurements, row: Row) -> Measurements:
    """Returns measurements with one row added."""
    _, field = _TABLES[type(row)]
    more: dict[str, Any] = {field: (*getattr(measurements, field), row)}
    return replace(measurements, **more)


def _is_truncated(row: str) -> bool:
    try:
        data: dict[str, Any] = tomllib.loads(row)
    except tomllib.TOMLDecodeError:
        return False  # Complete lines that are not TOML are mistyped, not truncated.
    for cls, (table, _) in _TABLES.items():
        if table in data and isinstance(data[table], list):
            needed = {field.name for field in fields(cls) if field.default is MISSING}
            return not needed <= data[table][-1].keys()
    return False
