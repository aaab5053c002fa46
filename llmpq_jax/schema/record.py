"""The decorator of all records, and checks that they share.

Records are frozen, keyword-only, and strictly validated when read.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Makes a frozen, keyword-only dataclass that is read without unknown keys."""
    # Read by pydantic when a file is decoded (see toml.py); inert otherwise.
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True}  # pyright: ignore[reportAttributeAccessIssue]
    make: Callable[[type[Any]], type[Any]] = dataclass(
        frozen=True, kw_only=True, slots=True
    )
    return make(cls)


def require_positive(value: Any) -> None:
    """Raises ValueError if a whole number of a record that has no default is below 1."""
    for field in fields(value):
        number = getattr(value, field.name)
        if field.default is MISSING and type(number) is int and number < 1:
            msg = f"{field.name} is {reprlib.repr(number)}, expected at least 1"
            raise ValueError(msg)


def require_at_most(value: Any, **limits: int) -> None:
    """Raises ValueError if a number of a record is above its limit."""
    for name, limit in limits.items():
        number = getattr(value, name)
        if number is not None and number > limit:
            msg = f"{name} is {reprlib.repr(number)}, expected at most {limit:,}"
            raise ValueError(msg)


def first_duplicate(names: Iterable[str]) -> str | None:
    """Returns the first name, in alphabetical order, that occurs twice; None if none does."""
    counts = Counter(names)
    return min((name for name, count in counts.items() if count > 1), default=None)
