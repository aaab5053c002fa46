"""The decorator of all records: frozen, keyword-only, strictly validated when read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
