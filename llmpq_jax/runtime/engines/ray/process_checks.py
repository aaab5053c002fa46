"""Checks of an actor's process: its heartbeat, and its version of llmpq-jax."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax import __version__
from llmpq_jax.errors import StrategyError


@dataclass(frozen=True, kw_only=True, slots=True)
class Heartbeat:
    """An actor's answer to a health check.

    Attributes:
        process: Unique name of the actor's process.
        pid: Process id on its machine.
        clock_s: Current `time.perf_counter` of the process.
        num_layers: Number of layers loaded so far.
    """

    process: str
    pid: int
    clock_s: float
    num_layers: int


def check_version(version: str) -> None:
    """Refuses to work for an engine of another version of llmpq-jax.

    Args:
        version: Version in the engine's process.

    Raises:
        StrategyError: If this machine has another version.
    """
    if version != __version__:
        msg = f"llmpq-jax is {__version__} here and {version} where the run was started: expected the same version; install it here"
        raise StrategyError(msg)
