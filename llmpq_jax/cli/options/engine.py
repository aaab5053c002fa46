"""Options that say where stages run, and the engine they choose."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from llmpq_jax.cli.options.option_group import option, option_group, option_record
from llmpq_jax.cli.options.paths import CacheFolder
from llmpq_jax.cli.options.shared import cache_home

if TYPE_CHECKING:
    from llmpq_jax.checkpoint.weights_cache import WeightsCache
    from llmpq_jax.runtime.engines.engine import CompileStages, StartEngine
    from llmpq_jax.runtime.engines.transport import TransportName

ADDRESS: Any = option(
    "Address of the Ray cluster (default: this machine's). "
    '"local" starts a cluster of this machine alone.',
    metavar="HOST:PORT",
)
TRANSPORT: Any = option(
    "How messages get from stage to stage under Ray. sockets, the default: over "
    "connections of their own. calls: over Ray's, which is slower and needs only Ray's "
    "ports. transfer: over sockets, and hidden states by JAX's transfer server "
    "(experimental).",
    click.Choice(["sockets", "calls", "transfer"]),
)


@option_record
class EngineOptions:
    """Options that choose an engine, as typed."""

    engine: Literal["local", "ray"] = option(
        "local: all stages in this process. ray: each stage in a process of its own, on "
        "the machine that the strategy names (docs/many-machines.md).",
        click.Choice(["local", "ray"]),
        default="local",
    )
    address: str | None = ADDRESS
    heartbeat_timeout_s: float | None = option(
        "Under Ray, how long a worker may stay silent before it counts as failed "
        "(default: 30).",
        click.FloatRange(min=1),
        name="--heartbeat-timeout",
        metavar="SECONDS",
    )
    restart_timeout_s: float | None = option(
        "Under Ray, how long a failed worker may take to start again before its machine "
        "counts as failed (default: 60).",
        click.FloatRange(min=1),
        name="--restart-timeout",
        metavar="SECONDS",
    )
    transport: TransportName | None = TRANSPORT
    weights_cache: str | None = option(
        "Folder on each machine that keeps layers at 4 and 8 bits as they are served, "
        'for quick restarts (default: ~/.cache/llmpq-jax/weights). "none" keeps none.',
        CacheFolder(path_type=str),
    )

    def starter(self, *, restarts: bool) -> StartEngine:
        """Returns the function that starts the engine."""
        if self.engine == "local":
            self._refuse_options_of_ray()
            from llmpq_jax.tasks.load_pipeline import start_here

            cache = open_weights_cache(self.weights_cache)
            return partial(start_here, weights_cache=cache)
        from llmpq_jax.report.console import log

        with needs_ray("--engine ray"):
            from llmpq_jax.runtime.engines.ray.ray_engine import (
                DEFAULT_RESTART_TIMEOUT_S,
                start_ray,
            )
        return partial(
            start_ray,
            **self._of_ray(),
            restart_timeout_s=self.restart_timeout_s or DEFAULT_RESTART_TIMEOUT_S,
            restarts=restarts,
            transport=chosen_transport(self.transport),
            log=log,
        )

    def compiler(self) -> CompileStages:
        """Returns the function that compiles stages where the engine would run them."""
        if self.engine == "local":
            self._refuse_options_of_ray()
            from llmpq_jax.runtime.engines.local import compile_local

            return compile_local
        with needs_ray("--engine ray"):
            from llmpq_jax.runtime.engines.ray.compilation import compile_under_ray
        return partial(compile_under_ray, **self._of_ray())

    def _of_ray(self) -> dict[str, Any]:
        """Returns what is the same for all that runs under Ray."""
        from llmpq_jax.runtime.engines.ray.health import DEFAULT_HEARTBEAT_TIMEOUT_S

        return {
            "address": self.address or "auto",
            "heartbeat_timeout_s": self.heartbeat_timeout_s
            or DEFAULT_HEARTBEAT_TIMEOUT_S,
            "set_up": partial(set_worker_up, _absolute(self.weights_cache)),
        }

    def _refuse_options_of_ray(self) -> None:
        typed = {
            "--address": self.address,
            "--heartbeat-timeout": self.heartbeat_timeout_s,
            "--restart-timeout": self.restart_timeout_s,
            "--transport": self.transport,
        }
        refuse_without("--engine ray", typed)


ENGINE = option_group("Engine", EngineOptions, "engine")


def refuse_without(option: str, typed: Mapping[str, object]) -> None:
    """Refuses options, by name, that were typed without the one that they belong to."""
    for name, value in typed.items():
        if value is not None:
            msg = f"{name} is for {option}: expected both or neither"
            raise click.UsageError(msg)


@contextmanager
def needs_ray(option: str) -> Iterator[None]:
    """Wraps imports of modules that import Ray, which an option needs."""
    try:
        yield
    except ModuleNotFoundError as reason:
        if reason.name != "ray":
            raise
        msg = f"{option} needs Ray, which is not installed: expected it from `pip install 'llmpq-jax[ray]'`, here and on every machine"
        raise click.UsageError(msg) from reason


def chosen_transport(typed: TransportName | None) -> TransportName:
    """Returns the transport: Ray's calls, and no other, if Ray is to encrypt."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return typed or "sockets"
    if typed in ("sockets", "transfer"):
        msg = f"--transport {typed} does not encrypt, and RAY_USE_TLS asks for it: expected --transport calls, or neither"
        raise click.UsageError(msg)
    return "calls"


def open_weights_cache(chosen: str | None) -> WeightsCache | None:
    """Returns this machine's cache of quantised weights, as --weights-cache says."""
    from llmpq_jax.checkpoint.weights_cache import WeightsCache
    from llmpq_jax.report.console import log

    if chosen == "none":
        return None
    default = cache_home() / "llmpq-jax" / "weights"
    return WeightsCache(default if chosen is None else Path(chosen), log=log)


def _absolute(weights_cache: str | None) -> str | None:
    """Returns an absolute path, since workers run in folders of their own."""
    if weights_cache in (None, "none"):
        return weights_cache
    return str(Path(weights_cache).absolute())


def set_worker_up(weights_cache: str | None) -> WeightsCache | None:
    """Sets up a worker's caches of compiled programs and quantised weights."""
    from llmpq_jax.tasks.compile_cache import keep_compiled

    keep_compiled(cache_home())
    return open_weights_cache(weights_cache)
