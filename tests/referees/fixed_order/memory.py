"""Constraints (F10) to (F14): what every device holds fits."""

from __future__ import annotations

import pyomo.environ as pyo

from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import Scaling
from llmpq_jax.planner.search.node_mip.highs import Model
from tests.referees.fixed_order.variables import bits_of


def precision_in_use(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F10) A precision that a device has a layer of is in use there."""
    del scaling
    model.precision_in_use = pyo.Constraint(
        model.JB,
        rule=lambda m, j, b: m.count[j, b] <= instance.num_layers * m.uses_bits[j, b],
    )


def layer_workspace(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F11) Workspace is that of the most demanding precision in use."""
    del scaling
    workspace = instance.devices.workspace_bytes / _unit_bytes(instance)
    model.layer_workspace = pyo.Constraint(
        model.JB,
        rule=lambda m, j, b: workspace[j, b] * m.uses_bits[j, b] <= m.workspace[j],
    )


def embedding_workspace(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F12) On the first device, workspace is at least the embedding's."""
    del scaling
    workspace = instance.devices.embedding_workspace_bytes / _unit_bytes(instance)
    model.embedding_workspace = pyo.Constraint(
        model.J,
        rule=lambda m, j: workspace[j] * m.first[j] <= m.workspace[j],
    )


def head_workspace(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F13) On the last device, workspace is at least the head's."""
    del scaling
    workspace = instance.devices.head_workspace_bytes / _unit_bytes(instance)
    model.head_workspace = pyo.Constraint(
        model.J,
        rule=lambda m, j: workspace[j] * m.last[j] <= m.workspace[j],
    )


def memory(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F14) Weights, cache, embedding, head, workspace and buffers fit every device."""
    del scaling
    d, unit = instance.devices, _unit_bytes(instance)
    layer = (d.layer_bytes + d.kv_bytes[:, None]) / unit
    model.memory = pyo.Constraint(
        model.J,
        rule=lambda m, j: (
            sum(float(layer[j, b]) * m.count[j, b] for b in bits_of(instance, j))
            + d.embedding_bytes[j] / unit * m.first[j]
            + d.head_bytes[j] / unit * m.last[j]
            + instance.buffer_bytes / unit * m.used[j]
            + instance.received_bytes / unit * (m.used[j] - m.first[j])
            + m.workspace[j]
            <= d.allowed_bytes[j] / unit
        ),
    )


def _unit_bytes(instance: Instance) -> float:
    """Unit of bytes: the largest device's, so that numbers are near 1."""
    return float(instance.devices.allowed_bytes.max())
