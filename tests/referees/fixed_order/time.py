"""Constraints (F15) to (F24) and (F27): seconds of both phases, as `costmodel.pipeline_schedule` has them.

P of a stage is one prefill micro-batch, D all n − 1 decode steps of one decode
micro-batch; so counted, D is of the order of the latency, like P.
"""

from __future__ import annotations

import numpy as np
import pyomo.environ as pyo

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.costmodel.pipeline_schedule import Host
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.node_mip.scaling import Model, Scaling
from llmpq_jax.schema.measurements import Phase
from tests.referees.fixed_order.variables import bits_of


def prefill_stages(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F15) The slowest of prefill is no faster than any stage."""
    model.prefill_stages = pyo.Constraint(
        model.J,
        rule=lambda m, j: _prefill_of(m, instance, scaling, j) <= m.prefill_slowest,
    )


def prefill_hops(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F16) Nor than any hop."""
    model.prefill_hops = pyo.Constraint(
        model.J,
        rule=lambda m, j: (
            _leaving(m, j, instance.hop_prefill_s / scaling.time_s) <= m.prefill_slowest
            if j < instance.num_devices - 1
            else pyo.Constraint.Skip
        ),
    )


def prefill_schedule(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F17) Prefill takes ΣP + (m_p − 1)·max P."""
    model.prefill_schedule = pyo.Constraint(
        expr=_prefill_alone(model, instance, scaling) <= model.prefill_time
    )


def prefill_hosts(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F18) A share of a shared machine's prefill goes one after the other."""
    stages = [
        instance.num_prefill * _prefill_of(model, instance, scaling, j) for j in model.J
    ]
    alone = _prefill_alone(model, instance, scaling)
    model.prefill_hosts = pyo.Constraint(
        range(len(instance.hosts)),
        rule=lambda m, h: (
            _shared(instance.hosts[h], "prefill", alone, stages) <= m.prefill_time
        ),
    )


def decode_stages(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F19) The slowest of decode is no faster than any stage."""
    model.decode_stages = pyo.Constraint(
        model.J,
        rule=lambda m, j: _decode_of(m, instance, scaling, j) <= m.decode_slowest,
    )


def decode_hops(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F20) Nor than any hop."""
    seconds = _all_steps(instance, scaling) * instance.hop_decode_s
    model.decode_hops = pyo.Constraint(
        model.J,
        rule=lambda m, j: (
            _leaving(m, j, seconds) <= m.decode_slowest
            if j < instance.num_devices - 1
            else pyo.Constraint.Skip
        ),
    )


def busy_round(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F21) A round is no shorter than the slowest resource's work: m_d·max D."""
    del scaling
    model.busy_round = pyo.Constraint(
        expr=instance.num_decode * model.decode_slowest <= model.decode_round
    )


def empty_round(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F22) Nor than one micro-batch's way through: ΣD."""
    once = _decode_once(model, instance, scaling)
    model.empty_round = pyo.Constraint(expr=once <= model.decode_round)


def decode_schedule(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F23) Decode takes ΣD + (m_d − 1)·max D + (n − 2)·round, each D of one step."""
    model.decode_schedule = pyo.Constraint(
        expr=_decode_alone(model, instance, scaling) <= model.decode_time
    )


def decode_hosts(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F24) A share of a shared machine's decode goes one after the other."""
    stages = [
        instance.num_decode * _decode_of(model, instance, scaling, j) for j in model.J
    ]
    alone = _decode_alone(model, instance, scaling)
    model.decode_hosts = pyo.Constraint(
        range(len(instance.hosts)),
        rule=lambda m, h: (
            _shared(instance.hosts[h], "decode", alone, stages) <= m.decode_time
        ),
    )


def whole_model(model: Model, instance: Instance, scaling: Scaling) -> None:
    """(F27) A device holds the whole model only if it is the first and the last."""
    del instance, scaling
    model.whole_model = pyo.Constraint(
        model.J,
        range(2),
        rule=lambda m, j, end: m.whole[j] <= (m.first[j], m.last[j])[end],
    )


def _prefill_of(model: Model, instance: Instance, scaling: Scaling, j: int) -> Model:
    seconds = instance.layer_prefill_s[j] / scaling.time_s
    ends = (instance.embedding_prefill_s[j], instance.head_prefill_s[j])
    by_itself = instance.dispatch_prefill_s[j] / scaling.time_s * model.used[j]
    ends_s = [end / scaling.time_s for end in ends]
    return by_itself + _stage(model, instance, j, seconds, ends_s)


def _decode_of(model: Model, instance: Instance, scaling: Scaling, j: int) -> Model:
    scale = _all_steps(instance, scaling)
    ends = (instance.embedding_decode_s[j], instance.head_decode_s[j])
    seconds = scale * instance.layer_decode_s[j]
    call_s, whole_call_s = (
        instance.dispatch_decode_s[j],
        instance.whole_dispatch_decode_s[j],
    )
    by_itself = scale * call_s * model.used[j]
    # What the other one is less; so nothing is gained by a `whole` below its limits.
    by_itself -= scale * (call_s - whole_call_s) * model.whole[j]
    return by_itself + _stage(
        model, instance, j, seconds, [scale * end for end in ends]
    )


def _stage(
    model: Model, instance: Instance, j: int, layer: Floats, ends: list[float]
) -> Model:
    total = sum(float(layer[b]) * model.count[j, b] for b in bits_of(instance, j))
    # Where an end is not supported its variable is bounded to 0, and infinity times it
    # must not be written.
    for seconds, variable in zip(ends, (model.first[j], model.last[j]), strict=True):
        if np.isfinite(seconds):
            total += float(seconds) * variable
    return total


def _prefill_alone(model: Model, instance: Instance, scaling: Scaling) -> Model:
    """What prefill takes where nothing is shared."""
    once = sum(
        _prefill_of(model, instance, scaling, j)
        + _leaving(model, j, instance.hop_prefill_s / scaling.time_s)
        for j in model.J
    )
    return once + (instance.num_prefill - 1) * model.prefill_slowest


def _decode_alone(model: Model, instance: Instance, scaling: Scaling) -> Model:
    """What decode takes where nothing is shared."""
    steps = instance.new_tokens - 1
    return (
        _decode_once(model, instance, scaling) / steps
        + (instance.num_decode - 1) / steps * model.decode_slowest
        + (steps - 1) / steps * model.decode_round
    )


def _shared(host: Host, phase: Phase, alone: Model, stages: list[Model]) -> Model:
    """What a phase takes at least where devices share a machine.

    Args:
        host: The machine.
        phase: Which.
        alone: What it takes where nothing is shared.
        stages: [J], all micro-batches on each device.
    """
    serial = host.serial_fraction(phase)
    work = sum(stages[j] for j in host.members)
    return (1 - serial) * alone + serial * work


def _decode_once(model: Model, instance: Instance, scaling: Scaling) -> Model:
    hops = _all_steps(instance, scaling) * instance.hop_decode_s
    return sum(
        _decode_of(model, instance, scaling, j) + _leaving(model, j, hops)
        for j in model.J
    )


def _leaving(model: Model, j: int, seconds: Floats) -> Model:
    """Seconds of the hop that leaves device j; 0 from the last."""
    return sum(
        float(seconds[o, i, k]) * model.hop[i, k, o] for i, k, o in model.HOPS if i == j
    )


def _all_steps(instance: Instance, scaling: Scaling) -> float:
    return (instance.new_tokens - 1) / scaling.time_s
