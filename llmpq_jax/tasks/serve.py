"""Loads a strategy's model for a server."""

from __future__ import annotations

from collections.abc import Callable

from llmpq_jax.report.console import progress_bar
from llmpq_jax.runtime.engines.engine import StartEngine
from llmpq_jax.runtime.serving_loop import ServingLoop
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.load_pipeline import load_pipeline


def load_served(
    strategy: Strategy,
    start: StartEngine,
    *,
    max_waiting: int,
    max_steps: int,
    is_stopped: Callable[[], bool],
    on_ready: Callable[[], None],
) -> ServingLoop:
    """Loads and compiles a strategy's stages, and starts the loop that serves requests.

    Args:
        strategy: Strategy to serve.
        start: Function that starts the engine.
        max_waiting: Largest number of requests that wait for a slot.
        max_steps: Largest number of decode steps between looks for new requests.
        is_stopped: Function that says whether loading is to end.
        on_ready: Called when requests are served.

    Raises:
        StrategyError: The strategy is for another model, or does not fit.
        CheckpointError: Weights are missing or damaged.
        InterruptedError: It was stopped.
    """

    def check() -> None:
        if is_stopped():
            raise InterruptedError

    pipeline = load_pipeline(strategy, start, on_layer=check)
    try:
        serving = ServingLoop(pipeline, max_waiting=max_waiting, max_steps=max_steps)
        with progress_bar("compiling", None, unit="shapes") as advance:

            def on_compiled(count: int, total: int) -> None:
                check()
                advance(count, total)

            serving.prepare(on_compiled=on_compiled)
        check()
        serving.start()
    except BaseException:
        pipeline.close()
        raise
    on_ready()
    return serving
