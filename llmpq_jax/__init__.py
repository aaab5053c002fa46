"""Serves one language model over devices that differ in memory and speed.

Importing the package costs neither JAX nor Pyomo; each subpackage imports what it
needs. `llmpq_jax.planner.plan` makes a strategy, `llmpq_jax.runtime.Pipeline` runs one.
"""

from llmpq_jax.errors import (
    CheckpointError,
    ClusterError,
    InfeasibleError,
    LlmpqError,
    MeasurementError,
    RequestError,
    SpecError,
    StrategyError,
    UnsupportedModelError,
)

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ClusterError",
    "InfeasibleError",
    "LlmpqError",
    "MeasurementError",
    "RequestError",
    "SpecError",
    "StrategyError",
    "UnsupportedModelError",
    "__version__",
]
