"""Sets and variables of the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyomo.environ as pyo

from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.node_mip.highs import Model
from llmpq_jax.schema.measurements import PHASES

Goal = Literal["objective", "omega"]


def add_variables(model: Model, instance: Instance) -> None:
    """Adds sets and variables with their bounds, which the table calls (F0)."""
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
    d = instance.devices
    grouped = {j for group in instance.device_groups for j in group.members}
    model.used = pyo.Var(
        model.J,
        domain=pyo.Binary,
        bounds=lambda _, j: (int(d.must_use[j] and j not in grouped), 1),
    )
    model.assign = pyo.Var(
        model.I,
        model.JB,
        bounds=lambda _, i, j, b: (
            0,
            int(d.may_hold[i, j] and instance.may_have[i, b]),
        ),
    )
    model.count = pyo.Var(
        model.JB, domain=pyo.NonNegativeIntegers, bounds=(0, instance.num_layers)
    )
    model.uses_bits = pyo.Var(model.JB, domain=pyo.Binary)
    model.first = pyo.Var(model.J, bounds=lambda _, j: (0, int(d.may_be_first[j])))
    model.last = pyo.Var(model.J, bounds=lambda _, j: (0, int(d.may_be_last[j])))
    model.whole = pyo.Var(model.J, bounds=(0, 1))
    # Between several precisions of a hop, whole devices alone would not decide.
    domain = pyo.Binary if len(instance.wire_bits) > 1 else pyo.Reals
    model.hop = pyo.Var(model.HOPS, domain=domain, bounds=(0, 1))
    model.workspace = pyo.Var(model.J, domain=pyo.NonNegativeReals)
    model.slowest = pyo.Var(PHASES, domain=pyo.NonNegativeReals)
    model.time = pyo.Var(PHASES, domain=pyo.NonNegativeReals)
    model.round = pyo.Var(domain=pyo.NonNegativeReals)


def bits_of(instance: Instance, device: int) -> list[int]:
    """Lists the indices of axis B that a device supports."""
    return [int(b) for b in np.flatnonzero(instance.devices.supported[device])]


def _pairs(instance: Instance) -> Iterator[tuple[int, int]]:
    for j in range(instance.num_devices):
        for b in bits_of(instance, j):
            yield j, b
