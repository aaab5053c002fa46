"""Serves one language model over devices that differ in memory and speed.

The Python interface is here: `profile` measures, `planning_request` and `plan` make a
strategy, `Pipeline` runs one. Names are imported when they are first used, so that
importing the package costs neither JAX nor Pyomo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmpq_jax.errors import (
    CheckpointError,
    ClusterError,
    InfeasibleError,
    LlmpqError,
    MeasurementError,
    RequestError,
    SpecError,
    StrategyError,
    TimeLimitError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from llmpq_jax.planner import PlanRequest, plan
    from llmpq_jax.profiler import ProfileOptions, profile
    from llmpq_jax.runtime import Completion, Pipeline, Request, Sampling
    from llmpq_jax.schema.record_files import (
        read_cluster,
        read_strategy,
        write_strategy,
    )
    from llmpq_jax.schema.solve_request import SolveRequest, Sources
    from llmpq_jax.schema.workload import Workload
    from llmpq_jax.tasks.planning_request import planning_request

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ClusterError",
    "Completion",
    "InfeasibleError",
    "LlmpqError",
    "MeasurementError",
    "Pipeline",
    "PlanRequest",
    "ProfileOptions",
    "Request",
    "RequestError",
    "Sampling",
    "SolveRequest",
    "Sources",
    "SpecError",
    "StrategyError",
    "TimeLimitError",
    "UnsupportedModelError",
    "Workload",
    "__version__",
    "plan",
    "planning_request",
    "profile",
    "read_cluster",
    "read_strategy",
    "write_strategy",
]

_HOMES = {
    "Completion": "runtime",
    "Pipeline": "runtime",
    "PlanRequest": "planner",
    "ProfileOptions": "profiler",
    "Request": "runtime",
    "Sampling": "runtime",
    "SolveRequest": "schema.solve_request",
    "Sources": "schema.solve_request",
    "Workload": "schema.workload",
    "plan": "planner",
    "planning_request": "tasks.planning_request",
    "profile": "profiler",
    "read_cluster": "schema.record_files",
    "read_strategy": "schema.record_files",
    "write_strategy": "schema.record_files",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
