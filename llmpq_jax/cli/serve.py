"""`llmpq-jax serve`: a strategy behind an HTTP server with OpenAI's interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options.engine import ENGINE, EngineOptions
from llmpq_jax.cli.options.option_group import (
    command,
    option,
    option_group,
    option_record,
)
from llmpq_jax.cli.options.paths import OutputFolder
from llmpq_jax.cli.options.problem import read_problem
from llmpq_jax.cli.options.shared import ABOVE_ZERO, POSITIVE, STRATEGY, cache_home
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL, ONLINE_STEPS_PER_CALL

if TYPE_CHECKING:
    from llmpq_jax.runtime.engines.engine import DeviceFailedError
    from llmpq_jax.runtime.serving_loop import ServingLoop
    from llmpq_jax.schema.strategy import Strategy

_KEY_VARIABLE = "LLMPQ_JAX_API_KEY"
_SERVER_MODULES = ("starlette", "uvicorn", "prometheus_client", "python_multipart")


@option_record
class ServerOptions:
    """Where the server listens, and for whom, as typed."""

    host: str = option("Address to listen at.", default="127.0.0.1")
    port: int = option(
        "Port to listen at; 0 takes a free one.", click.IntRange(0, 65535), default=8000
    )
    api_key: str | None = option(
        f"Key that clients must send (default: the variable {_KEY_VARIABLE}). Without one "
        "the server listens on this machine alone.",
        metavar="KEY",
    )
    model_name: str | None = option(
        "Name of the model for clients (default: its folder's name).",
        name="--served-model-name",
        metavar="NAME",
    )


@option_record
class FileOptions:
    """What the server keeps for its clients, as typed."""

    files: Path | None = option(
        "Folder for files and batches of clients (/v1/files, /v1/batches), made if it is "
        "missing. Batches that have not ended go on after a restart; nothing is deleted "
        "unless clients do. Without it there are none.",
        OutputFolder(),
        metavar="FOLDER",
    )


@option_record
class LimitOptions:
    """What bounds the server, as typed."""

    max_waiting: int = option(
        "Requests that may wait for a slot; more are refused with status 429.",
        POSITIVE,
        default=1024,
    )
    max_steps: int = option(
        "Decode steps between looks for new requests, where one stage has the whole "
        "model. More are faster; new requests and streams wait for them.",
        click.IntRange(1, MAX_STEPS_PER_CALL),
        default=ONLINE_STEPS_PER_CALL,
    )
    drain_timeout_s: float = option(
        "Time that requests have to finish after the first SIGTERM or Ctrl-C.",
        ABOVE_ZERO,
        default=30.0,
        name="--drain-timeout",
        metavar="SECONDS",
    )


@option_record
class RecoveryOptions:
    """What happens when a worker of Ray's fails, as typed."""

    on_loss: Literal["restart", "resolve"] = option(
        "What to do when a worker fails under Ray. restart: start it again, and end the "
        "server if that is not possible. resolve: the same, but instead of ending, solve "
        "the strategy's [request] again without the failed devices, and go on.",
        click.Choice(["restart", "resolve"]),
        default="restart",
    )


@command(
    "serve",
    option_group("Plan", strategy_path=STRATEGY),
    option_group("Server", ServerOptions, "server"),
    option_group("Batches", FileOptions, "kept"),
    option_group("Limits", LimitOptions, "limits"),
    ENGINE,
    option_group("Failures under Ray", RecoveryOptions, "recovery"),
)
def serve_command(
    strategy_path: Path,
    server: ServerOptions,
    kept: FileOptions,
    limits: LimitOptions,
    engine: EngineOptions,
    recovery: RecoveryOptions,
) -> None:
    """Serve a strategy over HTTP, with OpenAI's interface.

    It runs where the strategy's devices are. Requests may come at any time; as many are
    served at a time as the strategy's batch has rows, others wait.
    """
    api_key = server.api_key or os.environ.get(_KEY_VARIABLE) or None
    if recovery.on_loss == "resolve" and engine.engine != "ray":
        msg = "--on-loss resolve is for --engine ray: expected both or neither"
        raise click.UsageError(msg)
    start = engine.starter(restarts=True)
    with _needs_server():
        from llmpq_jax.server.batches.service import open_batches
        from llmpq_jax.server.connections import is_loopback, listen
        from llmpq_jax.server.run import run_server
        from llmpq_jax.server.settings import ServerSettings
        from llmpq_jax.server.state import ServerState
    if api_key is None and not is_loopback(server.host):
        msg = f"--host {server.host}: others would reach the server: expected --api-key with it, or an address of this machine alone"
        raise click.UsageError(msg)

    from llmpq_jax.arch.model_folder import check_model_folder
    from llmpq_jax.report.console import log
    from llmpq_jax.schema.record_files import read_strategy
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.serve import load_served

    strategy = read_strategy(strategy_path)
    folder = Path(strategy.model.path)
    check_model_folder(folder)
    keep_compiled(cache_home())
    name = server.model_name or folder.resolve().name
    state = ServerState(ServerSettings(model_name=name, api_key=api_key))
    with (
        listen(server.host, server.port) as listening,
        open_batches(state, kept.files) if kept.files else nullcontext() as batches,
    ):
        host, port = listening.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log(f"listening at {url}")

        def load(plan: Strategy, *, is_stopped: Callable[[], bool]) -> ServingLoop:
            return load_served(
                plan,
                start,
                max_waiting=limits.max_waiting,
                max_steps=limits.max_steps,
                is_stopped=is_stopped,
                on_ready=lambda: log(f"serving {name} at {url}/v1"),
            )

        replanner = None
        if recovery.on_loss == "resolve":
            replanner = _replanner(strategy_path, strategy)
        run_server(
            state,
            partial(load, strategy),
            listening,
            replan=replanner and (lambda failure: partial(load, replanner(failure))),
            batches=batches,
            drain_timeout_s=limits.drain_timeout_s,
            on_note=log,
        )


def _replanner(
    path: Path, strategy: Strategy
) -> Callable[[DeviceFailedError], Strategy]:
    """Returns what solves the strategy's request again without a failed device."""
    from llmpq_jax.tasks.replan import make_replanner

    model = Path(strategy.model.path)
    return make_replanner(
        path,
        strategy,
        sources={},
        read_problem=partial(read_problem, model, strategy.workload),
        command=command_as_typed(),
        out=path,
    )


@contextmanager
def _needs_server() -> Iterator[None]:
    """Wraps imports of modules that import what only a server needs."""
    try:
        yield
    except ModuleNotFoundError as reason:
        if reason.name not in _SERVER_MODULES:
            raise
        msg = f"`llmpq-jax serve` needs {reason.name}, which is not installed: expected it from `pip install 'llmpq-jax[serve]'`"
        raise click.UsageError(msg) from reason
