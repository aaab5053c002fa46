"""Types of fields that a file holds in another form than a record.

Paths in a file are relative to its folder; without a file, values stay as they are.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from llmpq_jax.units import GIB, MIB, parse_bytes, round_down, round_up

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


def file_key(cls: type[Any], field: str) -> str:
    """Returns the name of a record's field in the file: its alias, or its own name."""
    hint = get_type_hints(cls, include_extras=True)[field]
    aliases = (getattr(extra, "alias", None) for extra in get_args(hint)[1:])
    return next(filter(None, aliases), field)


@dataclass(frozen=True, kw_only=True, slots=True)
class Within:
    """Limits of a finite number, both included; None is no limit.

    As with `_FileForm`, pydantic is not needed before it reads such a record.
    """

    least: float | None = None
    most: float | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema: Any = {**handler(source)}
        limits = {"ge": self.least, "le": self.most}
        schema |= {name: limit for name, limit in limits.items() if limit is not None}
        if schema["type"] == "float":
            schema["allow_inf_nan"] = False
        return schema


@dataclass(frozen=True, kw_only=True, slots=True)
class _FileForm:
    """Conversions between a file and a record; both get the file's path, if there is one.

    pydantic asks for a schema when it first reads such a record: commands that read none
    start without it.
    """

    read: Callable[[Any, Path | None], Any] = lambda value, _: value
    write: Callable[[Any, Path | None], Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic_core import core_schema

        return core_schema.with_info_before_validator_function(
            lambda value, info: self.read(value, info.context),
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value, info: self.write(value, info.context),
                info_arg=True,
                when_used="json",
            ),
        )


def _from_file(found: object, file: Path | None) -> object:
    """Returns a path in a file as a path from the working directory."""
    if isinstance(found, str) and "\0" in found:
        msg = f"{reprlib.repr(found)} has a NUL character: expected a path"
        raise ValueError(msg)
    if file is None or not isinstance(found, str) or Path(found).is_absolute():
        return found
    return os.path.normpath(file.parent / found)


def _to_file(path: str | None, file: Path | None) -> str | None:
    """Returns a path as it is written in a file; absolute ones do not change."""
    if file is None or path is None or Path(path).is_absolute():
        return path
    return Path(os.path.relpath(path, file.parent)).as_posix()


def _in_digits(
    digits: int, rounded: Callable[[float, int], float]
) -> Callable[[Any, Path | None], Any]:
    """Returns a conversion that rounds what is written to a file."""
    return lambda value, file: (
        rounded(value, digits) if file is not None and value is not None else value
    )


def _read_bytes(value: object, _: Path | None) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _write_bytes(value: int, _: Path | None) -> str | int:
    for unit, size in (("GiB", GIB), ("MiB", MIB)):
        if value and value % size == 0:
            return f"{value // size} {unit}"
    return value


# Far beyond any device, and far enough below 2^63 to be added up.
MAX_BYTES = 1 << 50
MAX_SECONDS = 1e9
# Whole numbers from 1 up: of rows or tokens, and of devices.
Count = Annotated[int, Within(least=1, most=1 << 24)]
DeviceCount = Annotated[int, Within(least=1, most=1 << 16)]
ByteCount = Annotated[int, Within(least=0, most=MAX_BYTES)]
Seconds = Annotated[float, Within(least=1e-12, most=MAX_SECONDS)]
# Share or ratio from 0 up.
Ratio = Annotated[float, Within(least=0, most=1e9)]
Finite = Annotated[float, Within()]
# Path that is relative to the file's folder in the file, unless it is absolute.
FilePath = Annotated[str, _FileForm(read=_from_file, write=_to_file)]
# Number that is written to six significant digits, more than can be measured.
Predicted = Annotated[
    float,
    Within(),
    _FileForm(write=_in_digits(6, lambda value, _: float(f"{value:.6g}"))),
]
# Loss that is rounded up when it is written, so that a plan keeps its own as a budget.
Loss = Annotated[
    float,
    Within(least=0),
    _FileForm(write=_in_digits(6, round_up)),
]
# Numbers of a proof: a value is written no lower than it is, a bound no higher.
ProvenValue = Annotated[float, Within(), _FileForm(write=_in_digits(9, round_up))]
ProvenBound = Annotated[float, Within(), _FileForm(write=_in_digits(9, round_down))]
Bytes = Annotated[int, _FileForm(read=_read_bytes, write=_write_bytes)]
