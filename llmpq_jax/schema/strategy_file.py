"""Reads and writes strategy files; paths in them are relative to the file."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from llmpq_jax.errors import StrategyError
from llmpq_jax.files import write_text
from llmpq_jax.schema.paths import from_file, to_file
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import read_record, to_toml

T = TypeVar("T")

_COMMENT = """\
A plan of llmpq-jax. Edit it freely: it is checked when it is read.
layers = [from, up to but without]; bits has one entry per layer.
docs/strategy-format.md explains every field."""


def read_strategy(path: Path) -> Strategy:
    """Reads a strategy; its relative paths come back as seen from where we are.

    Raises:
        StrategyError: The file is missing or does not hold a strategy.
    """
    strategy = read_record(Strategy, path, what="strategy", error=StrategyError)
    model = replace(
        strategy.model,
        path=from_file(path, strategy.model.path),
        rounded=from_file(path, strategy.model.rounded),
    )
    return replace(strategy, model=model)


def write_strategy(path: Path, strategy: Strategy) -> None:
    """Writes a strategy; relative paths are rewritten as seen from the file."""
    model = replace(
        strategy.model,
        path=to_file(path, Path(strategy.model.path).as_posix()),
        rounded=to_file(path, strategy.model.rounded),
    )
    readable = _rounded(replace(strategy, model=model))
    write_text(path, to_toml(readable, comment=_COMMENT))


def _rounded(strategy: Strategy) -> Strategy:
    """Gives what was computed six significant digits: more than anyone can measure."""
    stages = tuple(
        replace(stage, predicted=_with_six_digits(stage.predicted))
        for stage in strategy.stages
    )
    return replace(
        strategy,
        stages=stages,
        quality=_with_six_digits(strategy.quality),
        predicted=_with_six_digits(strategy.predicted),
        certificate=_with_six_digits(strategy.certificate),
    )


def _with_six_digits(figures: T | None) -> T | None:
    if figures is None:
        return None
    changes: dict[str, Any] = {
        field.name: float(f"{value:.6g}")
        for field in fields(figures)  # pyright: ignore[reportArgumentType]
        if isinstance(value := getattr(figures, field.name), float)
    }
    return replace(figures, **changes)  # pyright: ignore[reportArgumentType, reportReturnType]
