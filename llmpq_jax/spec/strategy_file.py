"""Reads and writes strategy files; paths in them are relative to the file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from llmpq_jax.errors import StrategyError
from llmpq_jax.spec._toml import read_record, to_toml, write_text
from llmpq_jax.spec.strategy import Strategy

_COMMENT = """\
A plan of llmpq-jax. Edit it freely: it is checked when it is read.
layers = [from, up to but without]; bits has one entry per layer.
docs/strategy-format.md explains every field."""


def read_strategy(path: Path) -> Strategy:
    """Reads a strategy; its model path comes back as seen from where we are.

    Raises:
        StrategyError: The file is missing or does not hold a strategy.
    """
    strategy = read_record(Strategy, path, what="strategy", error=StrategyError)
    folder = Path(strategy.model.path)
    if not folder.is_absolute():
        folder = Path(os.path.normpath(path.parent / folder))
    return replace(strategy, model=replace(strategy.model, path=str(folder)))


def write_strategy(path: Path, strategy: Strategy) -> None:
    """Writes a strategy; a relative model path is rewritten as seen from the file."""
    folder = Path(strategy.model.path)
    if not folder.is_absolute():
        folder = Path(os.path.relpath(folder, path.parent))
    model = replace(strategy.model, path=folder.as_posix())
    write_text(path, to_toml(replace(strategy, model=model), comment=_COMMENT))
