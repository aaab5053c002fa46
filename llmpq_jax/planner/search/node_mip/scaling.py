"""Units of a Pyomo model's numbers, so that coefficients are near 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import latency_bound_s

# Pyomo gives models their attributes at run time, which no type checker can follow.
Model: TypeAlias = Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """What one unit of the model's numbers is, so that all of them are near 1.

    HiGHS compares coefficients and residuals with absolute tolerances, so bytes and
    seconds in their own units would mix 1e10 with 1e-6.

    Attributes:
        size_bytes: The largest device's.
        time_s: A lower bound on the latency.
        omega: The largest Σω there is.
    """

    size_bytes: float
    time_s: float
    omega: float


def scaling_of(instance: Instance) -> Scaling:
    """Chooses the units of an instance."""
    bound_s = latency_bound_s(instance)
    return Scaling(
        size_bytes=float(instance.allowed_bytes.max()),
        time_s=bound_s if 0 < bound_s < float("inf") else 1.0,
        omega=instance.fixed_omega
        + float(instance.omega.max(axis=1).sum())
        + float(instance.wire_omega.max()) * (instance.num_layers - 1)
        or 1.0,
    )
