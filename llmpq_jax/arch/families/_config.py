"""Typed look-ups in one config.json; every complaint names file, key and value."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

from llmpq_jax.arch.architecture import Activation
from llmpq_jax.errors import SpecError, UnsupportedModelError

T = TypeVar("T")

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The keys of one JSON object.

    Attributes:
        path: The file.
        values: What it holds.
        defaults: What holds for a key the file lacks; a key without one is required.
        inside: The key this object stands under, with a dot; empty at the top.
    """

    path: Path
    values: Mapping[str, object]
    defaults: Mapping[str, object] = field(default_factory=dict)
    inside: str = ""

    def get(self, key: str) -> object:
        """Returns the value of a key, or its default."""
        if key not in self.values and key not in self.defaults:
            msg = f"config {self.path}: {self.inside}{key}: missing, expected a value"
            raise SpecError(msg)
        return self.values.get(key, self.defaults.get(key))

    def integer(self, key: str) -> int:
        """Reads a whole number from 1 up."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(key, value, "a whole number from 1 up")
        return value

    def optional_integer(self, key: str) -> int | None:
        """Reads a whole number from 1 up, or null."""
        return None if self.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        """Reads a positive number."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, value, "a positive number")
        if not (value > 0 and math.isfinite(value)):
            self.refuse(key, value, "a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        """Reads true or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def choice(self, key: str, implemented: Mapping[str, T]) -> T:
        """Reads a word and returns what stands for it.

        Raises:
            UnsupportedModelError: It is a word, but not an implemented one.
        """
        value = self.get(key)
        if not isinstance(value, str):
            self.refuse(key, value, "a word in quotes")
        if value not in implemented:
            self.not_implemented(key, value, ", ".join(map(repr, implemented)))
        return implemented[value]

    def refuse(self, key: str, value: object, expected: str) -> NoReturn:
        """Raises SpecError: the value is not what the key may hold."""
        msg = f"config {self.path}: {self.inside}{key}: found {_short(value)}, expected {expected}"
        raise SpecError(msg)

    def not_implemented(self, key: str, value: object, implemented: str) -> NoReturn:
        """Raises UnsupportedModelError: the value is sound, but we cannot serve it."""
        msg = f"config {self.path}: {self.inside}{key} is {_short(value)}: implemented is {implemented}; choose another checkpoint"
        raise UnsupportedModelError(msg)

    def refuse_unknown_keys(
        self, known: frozenset[str], fixed_values: Mapping[str, object], *, what: str
    ) -> None:
        """Refuses keys outside the tables, and neutral ones of another value.

        Raises:
            UnsupportedModelError: There is such a key.
        """
        for key, value in self.values.items():
            if key in known or value is None:
                continue
            if key in fixed_values:
                if value != fixed_values[key]:
                    self.not_implemented(key, value, f"{fixed_values[key]!r} or null")
            elif value is not False and value not in ("", [], {}):
                msg = f"config {self.path}: {self.inside}{key} is {_short(value)}: implemented for {what} are configs without it, or with null; what it changes is not known here, so choose another checkpoint"
                raise UnsupportedModelError(msg)


def head_width(config: Config, hidden_size: int, num_heads: int) -> int:
    """Returns hidden / heads; the file's SpecError where it is not whole."""
    if hidden_size % num_heads:
        msg = f"config {config.path}: hidden size {hidden_size} is no multiple of {num_heads} heads: expected one, or a head_dim"
        raise SpecError(msg)
    return hidden_size // num_heads


def _short(value: object) -> str:
    return reprlib.repr(value)
