"""Constraint (F22) and the objectives."""

from __future__ import annotations

import pyomo.environ as pyo

from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import Scaling
from llmpq_jax.planner.search.node_mip.highs import Model
from tests.referees.fixed_order.variables import Goal


def omega_budget(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F22) Σω, the head's and the cache's included, stays within the budget."""
    if instance.omega_budget is None:
        return
    fixed = instance.fixed_omega / scaling.omega
    model.omega_budget = pyo.Constraint(
        expr=_decided_omega(model, instance, scaling)
        <= instance.omega_budget / scaling.omega - fixed
    )


def add_objective(
    model: Model, instance: Instance, scaling: Scaling, *, goal: Goal
) -> None:
    """Minimises latency plus θ·Σω, or Σω alone."""
    omega = (
        _decided_omega(model, instance, scaling) + instance.fixed_omega / scaling.omega
    )
    if goal == "omega":
        expression = omega
    else:
        weight = instance.theta * scaling.omega / scaling.time_s
        expression = model.time["prefill"] + model.time["decode"] + weight * omega
    model.objective = pyo.Objective(expr=expression)


def _decided_omega(model: Model, instance: Instance, scaling: Scaling) -> Model:
    """Σω of the layers, and of the hops between devices."""
    loss = instance.wire_omega / scaling.omega
    hops = sum(float(loss[o]) * model.hop[j, k, o] for j, k, o in model.HOPS if loss[o])
    return hops + sum(
        float(instance.omega[i, b]) / scaling.omega * model.assign[i, j, b]
        for i in model.I
        for j, b in model.JB
    )
