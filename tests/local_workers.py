"""The workers behind a pipeline that runs in this process."""

from __future__ import annotations

from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.engines.local import LocalEngine
from llmpq_jax.stage.worker import StageWorker


def local_workers(pipeline: Pipeline) -> tuple[StageWorker, ...]:
    """Returns them in pipeline order, to be looked into."""
    assert isinstance(pipeline._engine, LocalEngine)
    return pipeline._engine.workers
