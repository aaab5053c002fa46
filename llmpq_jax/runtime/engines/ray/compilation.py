"""Compiles stages on the machines of a Ray cluster, without their weights."""

from __future__ import annotations

from collections.abc import Callable

from llmpq_jax import __version__
from llmpq_jax.errors import WorkerFailedError
from llmpq_jax.runtime.engines.engine import StageFailedError
from llmpq_jax.runtime.engines.ray.actor import StageActor
from llmpq_jax.runtime.engines.ray.cluster_nodes import place_actors
from llmpq_jax.runtime.engines.ray.health import (
    DEFAULT_HEARTBEAT_TIMEOUT_S,
    HealthMonitor,
)
from llmpq_jax.runtime.engines.ray.ray_engine import as_workers_see, stage_nodes
from llmpq_jax.runtime.engines.ray.stage_calls import StageCalls
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.abstract import ProgramMemory


def compile_under_ray(
    strategy: Strategy,
    *,
    on_stage: Callable[[], None],
    address: str = "auto",
    heartbeat_timeout_s: float = DEFAULT_HEARTBEAT_TIMEOUT_S,
    set_up: Callable[[], object] = lambda: None,
) -> list[tuple[ProgramMemory, ...]]:
    """Compiles every stage on its machine, for its devices there, all at the same time.

    The model's config.json is enough. Returns the memory of each stage's programs, and
    calls `on_stage` after each stage. See `start_ray` for the other arguments.

    Raises:
        StrategyError: If the strategy is for another model or for missing devices, or a
            machine serves another strategy.
        DeviceFailedError: If a machine is not part of the cluster.
        WorkerFailedError: If there is no cluster, or a process failed.
    """
    strategy = as_workers_see(strategy)
    placed = place_actors(stage_nodes(strategy), StageActor, address=address)
    monitor = HealthMonitor(
        placed.actors, heartbeat_timeout_s=heartbeat_timeout_s, on_layer=lambda: None
    )
    try:
        calls = StageCalls(
            placed.actors, strategy.stages, monitor, may_recover=lambda: False
        )
        compiling = {
            actor.compile.remote(strategy, number, __version__, set_up): number
            for number, actor in enumerate(placed.actors)
        }
        found: dict[int, tuple[ProgramMemory, ...]] = {}
        for number, memories in calls.wait_all(compiling):
            found[number] = memories
            on_stage()
    except StageFailedError as reason:
        msg = f"{reason} while it compiled: see Ray's logs on that machine, whose memory may be too small"
        raise WorkerFailedError(msg) from reason
    finally:
        monitor.close()
        placed.release()
    return [found[number] for number in range(len(strategy.stages))]
