"""Constraints (F15) to (F21): seconds of both phases, as `costmodel.pipeline_schedule` has them.

Seconds are those of all rounds of a phase: of one prefill, and of all n − 1 decode steps.
So counted, both are of the order of the latency.
"""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo

from llmpq_jax.planner.instance.device_numbers import DECODE
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.bounds import Scaling
from llmpq_jax.planner.search.node_mip.highs import Model
from llmpq_jax.schema.measurements import PHASES
from tests.referees.fixed_order.variables import bits_of


def slowest_stage(
    model: Model, instance: Instance, scaling: Scaling, *, p: int
) -> None:
    """(F15) The slowest of a phase is no faster than any stage."""
    slowest = model.slowest[PHASES[p]]
    rows = pyo.Constraint(
        model.J, rule=lambda m, j: _stage(m, instance, scaling, p, j) <= slowest
    )
    model.add_component(f"{PHASES[p]}_slowest_stage", rows)


def slowest_hop(model: Model, instance: Instance, scaling: Scaling, *, p: int) -> None:
    """(F16) Nor than any hop."""
    slowest = model.slowest[PHASES[p]]
    rows = pyo.Constraint(
        model.J,
        rule=lambda m, j: (
            _leaving(m, instance, scaling, p, j) <= slowest
            if j < instance.num_devices - 1
            else pyo.Constraint.Skip
        ),
    )
    model.add_component(f"{PHASES[p]}_slowest_hop", rows)


def busy_round(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F17) A round of decode is no shorter than the work of its slowest."""
    del scaling
    busy = instance.num_micro_batches[DECODE] * model.slowest["decode"]
    model.busy_round = pyo.Constraint(expr=busy <= model.round)


def empty_round(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F18) Nor than the passage of one micro-batch."""
    once = _once(model, instance, scaling, DECODE)
    model.empty_round = pyo.Constraint(expr=once <= model.round)


def schedule(model: Model, instance: Instance, scaling: Scaling, *, p: int) -> None:
    """(F19) A phase takes one passage, the other micro-batches and the later rounds."""
    alone = _alone(model, instance, scaling, p)
    row = pyo.Constraint(expr=alone <= model.time[PHASES[p]])
    model.add_component(f"{PHASES[p]}_schedule", row)


def shared_hosts(model: Model, instance: Instance, scaling: Scaling, *, p: int) -> None:
    """(F20) A share of a shared machine's work is serial."""
    phase, m_p = PHASES[p], instance.num_micro_batches[p]
    stages = [m_p * _stage(model, instance, scaling, p, j) for j in model.J]
    alone = _alone(model, instance, scaling, p)

    def row(m: Model, h: int) -> Model:
        host = instance.hosts[h]
        serial = host.serial_fraction(phase)
        work = sum(stages[j] for j in host.members)
        return (1 - serial) * alone + serial * work <= m.time[phase]

    rows = pyo.Constraint(range(len(instance.hosts)), rule=row)
    model.add_component(f"{phase}_shared_hosts", rows)


def whole_model(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F21) A device holds the whole model only if it is the first and the last."""
    del instance, scaling
    model.whole_model = pyo.Constraint(
        model.J,
        range(2),
        rule=lambda m, j, end: m.whole[j] <= (m.first[j], m.last[j])[end],
    )


def _stage(model: Model, instance: Instance, scaling: Scaling, p: int, j: int) -> Model:
    """Seconds of device j in all rounds of a phase."""
    d, scale = instance.devices, instance.num_rounds[p] / scaling.time_s
    saved = d.dispatch_s[p, j] - d.whole_dispatch_s[p, j]
    total = scale * d.dispatch_s[p, j] * model.used[j]
    if saved:
        # So nothing is gained by a `whole` below its limits.
        total -= scale * saved * model.whole[j]
    total += sum(
        float(scale * d.layer_s[p, j, b]) * model.count[j, b]
        for b in bits_of(instance, j)
    )
    # What is not supported has a variable that is bounded to 0, and infinity times it
    # must not be written.
    for seconds, variable in (
        (d.embedding_s[p, j], model.first[j]),
        (d.head_s[p, j], model.last[j]),
    ):
        if np.isfinite(seconds):
            total += float(scale * seconds) * variable
    return total


def _alone(model: Model, instance: Instance, scaling: Scaling, p: int) -> Model:
    """Seconds of a phase if nothing is shared."""
    rounds, m_p = instance.num_rounds[p], instance.num_micro_batches[p]
    once = _once(model, instance, scaling, p) / rounds
    first_round = once + (m_p - 1) / rounds * model.slowest[PHASES[p]]
    if p != DECODE:
        return first_round
    return first_round + (rounds - 1) / rounds * model.round


def _once(model: Model, instance: Instance, scaling: Scaling, p: int) -> Model:
    """Seconds of one micro-batch over all stages and hops, in all rounds."""
    return sum(
        _stage(model, instance, scaling, p, j)
        + _leaving(model, instance, scaling, p, j)
        for j in model.J
    )


def _leaving(
    model: Model, instance: Instance, scaling: Scaling, p: int, j: int
) -> Model:
    """Seconds of the hop that leaves device j; 0 from the last."""
    seconds = instance.num_rounds[p] / scaling.time_s * instance.hop_s[p]
    return sum(
        float(seconds[o, i, k]) * model.hop[i, k, o] for i, k, o in model.HOPS if i == j
    )
