"""Typed look-ups in one config.json; every error names file, key and value."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

from llmpq_jax.arch.architecture import Activation
from llmpq_jax.errors import SpecError, UnsupportedModelError
from llmpq_jax.schema.workload import MAX_LAYERS, MAX_TOKENS

T = TypeVar("T")

_MAX_NUMBER = 1e30

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
        path: Path of the file.
        values: Values of the keys in the file.
        defaults: Values of keys that the file lacks; a key without one is required.
        inside: Key of this object in the file, with a dot; empty for the whole file.
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

    def integer(self, key: str, *, at_most: int = MAX_TOKENS) -> int:
        """Returns a whole number from 1 up."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.refuse(key, value, "a whole number from 1 up")
        if value > at_most:
            self.refuse(key, value, f"at most {at_most:,}")
        return value

    def num_layers(self, key: str) -> int:
        """Returns a number of layers, small enough to make something for each."""
        return self.integer(key, at_most=MAX_LAYERS)

    def optional_integer(self, key: str) -> int | None:
        """Returns a whole number from 1 up, or None for null."""
        return None if self.get(key) is None else self.integer(key)

    def number(self, key: str) -> float:
        """Returns a positive number."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, value, "a positive number")
        # A whole number may be too large for a float.
        if not 0 < value <= _MAX_NUMBER:
            self.refuse(key, value, f"a positive number of at most {_MAX_NUMBER:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        """Returns true or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def choice(self, key: str, implemented: Mapping[str, T]) -> T:
        """Returns what a text is mapped to.

        Raises:
            UnsupportedModelError: If the text is not implemented.
        """
        value = self.get(key)
        if not isinstance(value, str):
            self.refuse(key, value, "a word in quotes")
        if value not in implemented:
            self.not_implemented(key, value, ", ".join(map(repr, implemented)))
        return implemented[value]

    def refuse(self, key: str, value: object, expected: str) -> NoReturn:
        """Raises SpecError for a value that the key may not have."""
        msg = f"config {self.path}: {self.inside}{key}: found {_short(value)}, expected {expected}"
        raise SpecError(msg)

    def not_implemented(self, key: str, value: object, implemented: str) -> NoReturn:
        """Raises UnsupportedModelError for a valid value that is not implemented."""
        msg = f"config {self.path}: {self.inside}{key} is {_short(value)}: implemented is {implemented}; choose another checkpoint"
        raise UnsupportedModelError(msg)

    def refuse_unknown_keys(
        self, known: frozenset[str], fixed_values: Mapping[str, object], *, what: str
    ) -> None:
        """Refuses keys in no table, and keys with another than their fixed value.

        Raises:
            UnsupportedModelError: If there is such a key.
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
    """Returns the hidden size over the number of heads.

    Raises:
        SpecError: If that is not a whole number.
    """
    if hidden_size % num_heads:
        msg = f"config {config.path}: hidden size {hidden_size} is no multiple of {num_heads} heads: expected one, or a head_dim"
        raise SpecError(msg)
    return hidden_size // num_heads


def _short(value: object) -> str:
    return reprlib.repr(value)
