"""Options that say where stages run, and the engine they choose."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options import cache_home

if TYPE_CHECKING:
    from llmpq_jax.runtime.engines.engine import StartEngine

_OPTIONS = (
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="local: all stages in this process. ray: each in a process of its own, on "
        "the machine that the strategy names (docs/many-machines.md).",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="Of the Ray cluster; by default the one that this machine is part of. "
        '"local" starts one of this machine alone.',
    ),
    click.option(
        "--lost-after",
        "silence_s",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        help="Under Ray: a worker that does not answer for so long is lost; 30 by "
        "default.",
    ),
    click.option(
        "--gone-after",
        "gone_s",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        help="Under Ray: a lost worker that is not back after so long is gone for good, "
        "with its machine; 60 by default.",
    ),
)


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_engine(
    engine: str,
    *,
    address: str | None,
    silence_s: float | None,
    gone_s: float | None,
    restarts: bool,
) -> StartEngine | None:
    """Returns what starts the engine that was chosen; None for the local one.

    Args:
        engine: Its name.
        address: As typed.
        silence_s: As typed.
        gone_s: As typed.
        restarts: Whether a worker that is lost is to be had back.

    Raises:
        click.UsageError: The options contradict each other, or Ray is not installed.
    """
    if engine == "local":
        typed = {
            "--address": address,
            "--lost-after": silence_s,
            "--gone-after": gone_s,
        }
        for name, value in typed.items():
            if value is not None:
                msg = f"{name} is for --engine ray: expected both or neither"
                raise click.UsageError(msg)
        return None
    try:
        from llmpq_jax.runtime.engines.ray_engine import (
            DEFAULT_GONE_S,
            DEFAULT_SILENCE_S,
            start_ray,
        )
    except ModuleNotFoundError as reason:
        if reason.name != "ray":
            raise
        msg = "--engine ray needs Ray, which is not installed: expected it from `pip install 'llmpq-jax[ray]'`, here and on every machine"
        raise click.UsageError(msg) from reason
    return partial(
        start_ray,
        address=address or "auto",
        silence_s=silence_s or DEFAULT_SILENCE_S,
        gone_s=gone_s or DEFAULT_GONE_S,
        restarts=restarts,
        set_up=_set_worker_up,
    )


def _set_worker_up() -> None:
    """Has a worker keep what it compiles, in its own user's folder."""
    from llmpq_jax.workflow.compile_cache import keep_compiled

    keep_compiled(cache_home())
