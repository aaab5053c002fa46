"""Constraints (F1) to (F9) and (F23): which layers are where, at which precision."""

from __future__ import annotations

import pyomo.environ as pyo

from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import Scaling
from llmpq_jax.planner.search.node_mip.highs import Model
from tests.referees.fixed_order.variables import bits_of


def device_order(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F1) A layer on device j or before is also on j + 1 or before."""
    del scaling
    last = instance.num_devices - 1
    model.device_order = pyo.Constraint(
        model.I,
        model.J,
        rule=lambda m, i, j: (
            m.before[i, j] <= m.before[i, j + 1] if j < last else pyo.Constraint.Skip
        ),
    )


def layer_order(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F2) A layer is never on an earlier device than the layer before it."""
    del scaling
    last = instance.num_layers - 1
    model.layer_order = pyo.Constraint(
        model.I,
        model.J,
        rule=lambda m, i, j: (
            m.before[i + 1, j] <= m.before[i, j] if i < last else pyo.Constraint.Skip
        ),
    )


def one_precision(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F3) A layer has one precision on its device, and none elsewhere."""
    del scaling
    model.one_precision = pyo.Constraint(
        model.I,
        model.J,
        rule=lambda m, i, j: (
            sum(m.assign[i, j, b] for b in bits_of(instance, j)) == _holds(m, i, j)
        ),
    )


def layer_count(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F4) Layers of each precision on each device are counted."""
    del instance, scaling
    model.layer_count = pyo.Constraint(
        model.JB,
        rule=lambda m, j, b: m.count[j, b] == sum(m.assign[i, j, b] for i in m.I),
    )


def used_if_holding(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F5) A device that holds a layer is used."""
    del instance, scaling
    model.used_if_holding = pyo.Constraint(
        model.I, model.J, rule=lambda m, i, j: _holds(m, i, j) <= m.used[j]
    )


def holding_if_used(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F6) A used device holds a layer."""
    del scaling
    model.holding_if_used = pyo.Constraint(
        model.J,
        rule=lambda m, j: (
            m.used[j] - sum(m.count[j, b] for b in bits_of(instance, j)) <= 0
        ),
    )


def one_predecessor(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F7) A used device is the first, or one earlier device sends to it."""
    del instance, scaling
    model.one_predecessor = pyo.Constraint(
        model.J,
        rule=lambda m, k: (
            m.first[k] + sum(m.hop[j, i, o] for j, i, o in m.HOPS if i == k) - m.used[k]
            == 0
        ),
    )


def one_successor(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F8) A used device is the last, or sends to one later device."""
    del instance, scaling
    model.one_successor = pyo.Constraint(
        model.J,
        rule=lambda m, j: (
            m.last[j] + sum(m.hop[i, k, o] for i, k, o in m.HOPS if i == j) - m.used[j]
            == 0
        ),
    )


def one_first(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F9) One device is the first; by (F7) and (F8), one is then the last.

    With `used` whole numbers the path is the only solution of (F7) to (F9): the earliest
    used device has no predecessor and takes all of `first`, the next one then has only
    that predecessor, and so on. So `first`, `last` and `hop` need not be integer.
    """
    del instance, scaling
    model.one_first = pyo.Constraint(expr=sum(model.first[j] for j in model.J) == 1)


def group_devices(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F23) Stages take no more devices than a group has; all, where all must be used."""
    del scaling
    width, must_use = instance.devices.width, instance.devices.must_use

    def taken(m: Model, q: int) -> Model:
        group = instance.device_groups[q]
        used = sum(int(width[j]) * m.used[j] for j in group.members)
        must = any(must_use[j] for j in group.members)
        return group.num_devices if must else None, used, group.num_devices

    model.group_devices = pyo.Constraint(range(len(instance.device_groups)), rule=taken)


def _holds(model: Model, i: int, j: int) -> Model:
    """1 where layer i is on device j."""
    return model.before[i, j] - (model.before[i, j - 1] if j > 0 else 0)
