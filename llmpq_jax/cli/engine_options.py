"""Options that say where stages run, and the engine they choose."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.shared_options import cache_home, with_options

if TYPE_CHECKING:
    from llmpq_jax.checkpoint.weights_cache import WeightsCache
    from llmpq_jax.runtime.engines.engine import StartEngine
    from llmpq_jax.runtime.engines.transport.config import TransportName

address_option = click.option(
    "--address",
    metavar="HOST:PORT",
    help="Of the Ray cluster; by default the one that this machine is part of. "
    '"local" starts one of this machine alone.',
)
transport_option = click.option(
    "--transport",
    type=click.Choice(["sockets", "calls", "transfer"]),
    help="Under Ray: what brings messages from stage to stage. sockets, the "
    "default: connections of their own. calls: those of Ray, slower, on Ray's ports "
    "alone. transfer: sockets, and JAX's transfer server for hidden states; "
    "experimental.",
)
engine_options = with_options(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="local: all stages in this process. ray: each in a process of its own, on "
        "the machine that the strategy names (docs/many-machines.md).",
    ),
    address_option,
    click.option(
        "--heartbeat-timeout",
        "heartbeat_timeout_s",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        help="Under Ray: a worker that does not answer for so long is lost; 30 by "
        "default.",
    ),
    click.option(
        "--restart-timeout",
        "restart_timeout_s",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        help="Under Ray: a lost worker that is not back after so long is gone for good, "
        "with its machine; 60 by default.",
    ),
    transport_option,
    click.option(
        "--weights-cache",
        metavar="DIR",
        help="Where each machine keeps layers of 4 and 8 bits as they are served, for a "
        'quick restart; by default ~/.cache/llmpq-jax/weights. "none" keeps none.',
    ),
)


def chosen_engine(
    engine: str,
    *,
    address: str | None,
    heartbeat_timeout_s: float | None,
    restart_timeout_s: float | None,
    restarts: bool,
    transport: TransportName | None,
    weights_cache: str | None,
) -> StartEngine | None:
    """Returns what starts the engine that was chosen; None for the local one.

    Args:
        engine: Its name.
        address: As typed.
        heartbeat_timeout_s: As typed.
        restart_timeout_s: As typed.
        restarts: Whether a worker that is lost is to be had back.
        transport: As typed.
        weights_cache: As typed; each worker finds the folder on its own machine.

    Raises:
        click.UsageError: The options contradict each other, or Ray is not installed.
    """
    if engine == "local":
        typed = {
            "--address": address,
            "--heartbeat-timeout": heartbeat_timeout_s,
            "--restart-timeout": restart_timeout_s,
            "--transport": transport,
        }
        refuse_without("--engine ray", typed)
        return None
    with needs_ray("--engine ray"):
        from llmpq_jax.runtime.engines.ray.ray_engine import (
            DEFAULT_HEARTBEAT_TIMEOUT_S,
            DEFAULT_RESTART_TIMEOUT_S,
            start_ray,
        )
    return partial(
        start_ray,
        address=address or "auto",
        heartbeat_timeout_s=heartbeat_timeout_s or DEFAULT_HEARTBEAT_TIMEOUT_S,
        restart_timeout_s=restart_timeout_s or DEFAULT_RESTART_TIMEOUT_S,
        restarts=restarts,
        transport=chosen_transport(transport),
        set_up=partial(set_worker_up, _absolute(weights_cache)),
    )


def refuse_without(option: str, typed: Mapping[str, object]) -> None:
    """Refuses what was typed for an option that was not.

    Args:
        option: That is absent.
        typed: What goes with it alone, by name; None where it was not typed.

    Raises:
        click.UsageError: One of them was typed.
    """
    for name, value in typed.items():
        if value is not None:
            msg = f"{name} is for {option}: expected both or neither"
            raise click.UsageError(msg)


@contextmanager
def needs_ray(option: str) -> Iterator[None]:
    """Imports what imports Ray.

    Args:
        option: That needs it.

    Raises:
        click.UsageError: Ray is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as reason:
        if reason.name != "ray":
            raise
        msg = f"{option} needs Ray, which is not installed: expected it from `pip install 'llmpq-jax[ray]'`, here and on every machine"
        raise click.UsageError(msg) from reason


def chosen_transport(typed: TransportName | None) -> TransportName:
    """Returns what brings messages: nothing in the clear where Ray is to encrypt.

    Raises:
        click.UsageError: That was asked for.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return typed or "sockets"
    if typed in ("sockets", "transfer"):
        msg = f"--transport {typed} does not encrypt, and RAY_USE_TLS asks for it: expected --transport calls, or neither"
        raise click.UsageError(msg)
    return "calls"


def open_weights_cache(chosen: str | None) -> WeightsCache | None:
    """Returns where this machine keeps rounded weights, as --weights-cache says."""
    from llmpq_jax.checkpoint.weights_cache import WeightsCache
    from llmpq_jax.report.console import tell

    if chosen == "none":
        return None
    default = cache_home() / "llmpq-jax" / "weights"
    return WeightsCache(default if chosen is None else Path(chosen), tell=tell)


def _absolute(weights_cache: str | None) -> str | None:
    """Names a folder for workers, which run in folders of their own."""
    if weights_cache in (None, "none"):
        return weights_cache
    return str(Path(weights_cache).absolute())


def set_worker_up(weights_cache: str | None) -> WeightsCache | None:
    """Has a worker keep what it compiles and rounds, by default in its user's folder."""
    from llmpq_jax.tasks.compile_cache import keep_compiled

    keep_compiled(cache_home())
    return open_weights_cache(weights_cache)
