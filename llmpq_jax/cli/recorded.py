"""The options that a strategy was made with, read from the command it records."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from llmpq_jax.cli.solve import solve_command
from llmpq_jax.errors import StrategyError

if TYPE_CHECKING:
    from llmpq_jax.schema.strategy import Strategy

_FILES = ("cluster", "measurements", "sensitivity")


def recorded_options(strategy: Strategy) -> dict[str, Any]:
    """Returns the values of those options of `solve` that were typed.

    Nothing where the strategy records no command, or another one than `solve`; what its
    version knew and this one does not is left out.
    """
    if strategy.provenance is None:
        return {}
    try:
        words = shlex.split(strategy.provenance.command)
    except ValueError:
        return {}
    if "solve" not in words[:3]:
        return {}
    typed = words[words.index("solve") + 1 :]
    with solve_command.make_context("solve", typed, resilient_parsing=True) as context:
        return {
            name: value
            for name, value in context.params.items()
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
            and value is not None
        }


def merged_options(
    path: Path, strategy: Strategy, options: dict[str, Any]
) -> dict[str, Any]:
    """Returns a command's options, recorded ones where none were typed.

    Args:
        path: Of the strategy.
        strategy: What it holds.
        options: Of the running command, by name.

    Raises:
        StrategyError: A file that is needed is neither named nor where it was.
    """
    context = click.get_current_context()
    typed = {
        name
        for name in options
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    recorded = {
        name: value
        for name, value in recorded_options(strategy).items()
        if name in options and name not in typed
    }
    if typed & {"measurements", "roofline"}:
        for name in ("measurements", "roofline"):
            recorded.pop(name, None)
    for name in _FILES:
        if name in recorded and not recorded[name].exists():
            msg = f"{path}: was made with --{name} {recorded[name]}, which is not there as seen from here: name it with --{name} FILE"
            raise StrategyError(msg)
    merged = {**options, **recorded}
    merged["model"] = options["model"] or Path(strategy.model.path)
    if merged["cluster"] is None:
        msg = f"{path}: records no cluster it was made for: name it with --cluster FILE"
        raise StrategyError(msg)
    if merged["measurements"] is None and not merged["roofline"]:
        msg = f"{path}: records no measurements it was made with: name them with --measurements FILE, or give --roofline"
        raise StrategyError(msg)
    return merged
