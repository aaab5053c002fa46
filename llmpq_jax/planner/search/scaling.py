"""Units in which HiGHS sees seconds and ω, so that all numbers are near 1.

HiGHS compares coefficients and residuals with absolute tolerances, so seconds and losses
in their own units would mix 1e3 with 1e-6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import latency_bound_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaling:
    """Units of a Pyomo model's numbers.

    Attributes:
        time_s: Unit of seconds: a lower bound on the latency.
        omega: Unit of losses: the largest Σω there is.
    """

    time_s: float
    omega: float


def scaling_of(instance: Instance) -> Scaling:
    """Chooses the units of an instance."""
    bound_s = latency_bound_s(instance)
    return Scaling(
        time_s=bound_s if 0 < bound_s < float("inf") else 1.0,
        omega=instance.fixed_omega
        + float(instance.omega.max(axis=1).sum())
        + float(instance.wire_omega.max()) * (instance.num_layers - 1)
        or 1.0,
    )


def all_rounds(seconds: Floats, instance: Instance, unit_s: float) -> Floats:
    """Returns the seconds of all rounds of each phase, in units.

    Decode seconds of all n − 1 steps are of the order of the latency, as prefill's are.

    Args:
        seconds: Seconds of one round of each phase, [P, …].
        instance: Number of rounds.
        unit_s: Unit of the result in seconds.
    """
    steps = max(instance.num_rounds[DECODE], 1)
    return np.stack([seconds[PREFILL] / unit_s, seconds[DECODE] * (steps / unit_s)])
