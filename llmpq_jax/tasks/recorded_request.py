"""What a strategy was asked for, with sources, choices or limits exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.solve_request import SolveRequest, Sources
from llmpq_jax.schema.strategy import Strategy

_FILES = ("cluster", "measurements", "sensitivity")


def recorded_request(
    path: Path,
    strategy: Strategy,
    *,
    sources: Mapping[str, Any],
    choices: Mapping[str, Any] | None = None,
    quality: Mapping[str, Any] | None = None,
) -> SolveRequest:
    """Returns a strategy's request with some of its values exchanged, by name.

    A limit that was measured is left out: the strategy has the budget that it led to.

    Raises:
        StrategyError: The strategy has no request and the sources do not suffice, or a
            recorded file does not exist.
        ValueError: The values contradict each other.
    """
    given = dict(sources)
    if given.get("measurements") and not given.get("roofline"):
        given["roofline"] = False
    elif given.get("roofline") and not given.get("measurements"):
        given["measurements"] = None
    if strategy.request is not None:
        recorded = strategy.request
        limits = recorded.quality
        if limits.is_measured:
            limits = limits.with_budget(None)
        request = replace(
            recorded, sources=replace(recorded.sources, **given), quality=limits
        )
        _check_files(path, request.sources, given)
    elif "cluster" in given and "roofline" in given:
        request = SolveRequest(sources=Sources(**given))
    else:
        msg = f"{path}: has no [request], which says what it was solved with: give --cluster FILE and --measurements FILE"
        raise StrategyError(msg)
    return replace(
        request,
        choices=replace(request.choices, **(choices or {})),
        quality=replace(request.quality, **(quality or {})),
    )


def _check_files(path: Path, sources: Sources, given: Mapping[str, Any]) -> None:
    """Refuses recorded files that do not exist, naming the option that exchanges them."""
    for name in _FILES:
        recorded = getattr(sources, name)
        if name not in given and recorded is not None and not Path(recorded).exists():
            msg = f"{path}: was solved with --{name} {recorded}, which does not exist: name the file with --{name} FILE"
            raise StrategyError(msg)
