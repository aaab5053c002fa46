"""Reads and writes strategy files; paths in them are relative to the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
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
layers = [first, end], end exclusive; bits has one entry per layer.
docs/strategy-format.md explains every field."""


def read_strategy(path: Path) -> Strategy:
    """Reads a strategy file, with its paths as paths from the working directory.

    Raises:
        StrategyError: If the file is missing or does not hold a strategy.
    """
    strategy = read_record(Strategy, path, what="strategy", error=StrategyError)
    return _with_paths(strategy, partial(from_file, path))


def write_strategy(path: Path, strategy: Strategy) -> None:
    """Writes a strategy file, with relative paths relative to its folder."""
    readable = _rounded(_with_paths(strategy, partial(to_file, path)))
    write_text(path, to_toml(readable, comment=_COMMENT))


def _with_paths(strategy: Strategy, rewritten: Callable[[Any], Any]) -> Strategy:
    """Returns a strategy whose paths, as far as they are present, are rewritten."""
    model, request = strategy.model, strategy.request
    strategy = replace(
        strategy,
        model=replace(
            model, path=rewritten(model.path), rounded=rewritten(model.rounded)
        ),
    )
    if request is None:
        return strategy
    sources = replace(
        request.sources,
        cluster=rewritten(request.sources.cluster),
        measurements=rewritten(request.sources.measurements),
        sensitivity=rewritten(request.sources.sensitivity),
    )
    quality = replace(
        request.quality, validation_text=rewritten(request.quality.validation_text)
    )
    return replace(strategy, request=replace(request, sources=sources, quality=quality))


def _rounded(strategy: Strategy) -> Strategy:
    """Rounds predicted numbers to six significant digits, beyond what can be measured."""
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
