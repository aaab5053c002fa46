"""Sets, units and variables; which numbers are divided by what is decided here, once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyomo.environ as pyo

from llmpq_jax.solver.bounds import latency_bound_s
from llmpq_jax.solver.instance import Instance

# Pyomo gives models their attributes at run time, which no type checker can follow.
Model: TypeAlias = Any

Goal = Literal["objective", "omega"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
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


def units_of(instance: Instance) -> Units:
    """Chooses the units of an instance."""
    bound_s = latency_bound_s(instance)
    return Units(
        size_bytes=float(instance.allowed_bytes.max()),
        time_s=bound_s if 0 < bound_s < float("inf") else 1.0,
        omega=instance.fixed_omega
        + float(instance.omega.max(axis=1).sum())
        + float(instance.wire_omega.max()) * (instance.num_layers - 1)
        or 1.0,
    )


def add_variables(model: Model, instance: Instance) -> None:
    """Adds sets and variables with their bounds, which the table calls (0)."""
    last = instance.num_devices - 1
    model.I = pyo.RangeSet(0, instance.num_layers - 1)
    model.J = pyo.RangeSet(0, last)
    model.JB = pyo.Set(dimen=2, initialize=list(_pairs(instance)))
    model.HOPS = pyo.Set(
        dimen=3,
        initialize=[
            (j, k, o)
            for j in range(last)
            for k in range(j + 1, last + 1)
            for o in range(len(instance.wire_bits))
        ],
    )
    model.before = pyo.Var(
        model.I, model.J, domain=pyo.Binary, bounds=lambda _, i, j: (int(j == last), 1)
    )
    pooled = {j for pool in instance.pools for j in pool.members}
    model.used = pyo.Var(
        model.J,
        domain=pyo.Binary,
        bounds=lambda _, j: (int(instance.must_use[j] and j not in pooled), 1),
    )
    model.assign = pyo.Var(
        model.I,
        model.JB,
        bounds=lambda _, i, j, b: (
            0,
            int(instance.may_hold[i, j] and instance.may_have[i, b]),
        ),
    )
    model.count = pyo.Var(
        model.JB, domain=pyo.NonNegativeIntegers, bounds=(0, instance.num_layers)
    )
    model.uses_bits = pyo.Var(model.JB, domain=pyo.Binary)
    model.first = pyo.Var(
        model.J, bounds=lambda _, j: (0, int(instance.may_be_first[j]))
    )
    model.last = pyo.Var(model.J, bounds=lambda _, j: (0, int(instance.may_be_last[j])))
    model.whole = pyo.Var(model.J, bounds=(0, 1))
    # Between several ways to send, whole devices alone would not decide.
    domain = pyo.Binary if len(instance.wire_bits) > 1 else pyo.Reals
    model.hop = pyo.Var(model.HOPS, domain=domain, bounds=(0, 1))
    model.workspace = pyo.Var(model.J, domain=pyo.NonNegativeReals)
    model.prefill_slowest = pyo.Var(domain=pyo.NonNegativeReals)
    model.prefill_time = pyo.Var(domain=pyo.NonNegativeReals)
    model.decode_slowest = pyo.Var(domain=pyo.NonNegativeReals)
    model.decode_round = pyo.Var(domain=pyo.NonNegativeReals)
    model.decode_time = pyo.Var(domain=pyo.NonNegativeReals)


def bits_of(instance: Instance, device: int) -> list[int]:
    """Lists the columns of axis B that a device supports."""
    return [int(b) for b in np.flatnonzero(instance.supported[device])]


def _pairs(instance: Instance) -> Iterator[tuple[int, int]]:
    for j in range(instance.num_devices):
        for b in bits_of(instance, j):
            yield j, b
