"""Loads the pipeline of a strategy, with progress on stderr."""

from __future__ import annotations

from collections.abc import Callable

from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.report.console import progress_bar
from llmpq_jax.runtime.engines.engine import StartEngine
from llmpq_jax.runtime.engines.local import LocalEngine, start_local
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.kernel_notice import note_missing_kernels


def load_pipeline(
    strategy: Strategy,
    start: StartEngine,
    *,
    on_layer: Callable[[], None] = lambda: None,
) -> Pipeline:
    """Loads a strategy's pipeline into the engine that a function starts.

    `on_layer` is called after each layer, and may raise to end it.
    """
    num_layers = strategy.model.num_layers
    with progress_bar("loading", num_layers, unit="layers") as advance:

        def count() -> None:
            advance(1)
            on_layer()

        return Pipeline.load(strategy, start=start, on_layer=count)


def start_here(
    strategy: Strategy,
    *,
    on_layer: Callable[[], None],
    weights_cache: WeightsCache | None = None,
) -> LocalEngine:
    """Starts the engine of this process; see `start_local`.

    A note on stderr says so if a CPU lacks its kernels.
    """
    note_missing_kernels(name for stage in strategy.stages for name in stage.devices)
    return start_local(strategy, on_layer=on_layer, weights_cache=weights_cache)
