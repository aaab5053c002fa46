"""The workers behind a pipeline that runs in this process."""

from __future__ import annotations

from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.engines.local import LocalEngine
from llmpq_jax.stage.worker import StageWorker


def local_workers(pipeline: Pipeline) -> tuple[StageWorker, ...]:
    """Returns the workers in pipeline order, to inspect them."""
    assert isinstance(pipeline.engine, LocalEngine)
    return pipeline.engine.workers
