"""Constraints (1) to (15): stages on any devices in any order, chosen from columns.

A plan is a path through the boundaries between layers: a stage takes it from one to a
later one on a device of some type, a hop from that type to the next one's. How stages
fit their memory and what they cost is in the columns; docs/formulation.md has the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyomo.environ as pyo

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.search.node_mip.candidate_stages import CandidateStages
from llmpq_jax.planner.search.node_mip.scaling import Model, Scaling, scaling_of
from llmpq_jax.planner.search.stage_costs import PathStage
from llmpq_jax.schema.measurements import Phase

Add = Callable[[Model, CandidateStages, Scaling], None]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class ArcFlow:
    """A model ready to be solved.

    Attributes:
        model: Of Pyomo; `stage[s]` says whether column s is in the plan.
        unit: Seconds that 1 in the objective stands for.
    """

    model: Model
    unit: float


def formulate(candidates: CandidateStages) -> ArcFlow:
    """Writes an order-free problem as a model."""
    scaling = scaling_of(candidates.instance)
    model = pyo.ConcreteModel()
    add_variables(model, candidates, scaling)
    constraints = PATHS + PREFILL
    constraints += DECODE if candidates.instance.new_tokens > 1 else ()
    for add in (*constraints, omega_budget):
        add(model, candidates, scaling)
    add_objective(model, candidates, scaling)
    return ArcFlow(model=model, unit=scaling.time_s)


def chosen_stages(model: Model, candidates: CandidateStages) -> list[PathStage]:
    """Reads the plan off a solved model: its stages in order, and how they hand on."""
    chosen = [s for s in range(len(candidates.stages)) if model.stage[s].value > 0.5]
    chosen.sort(key=lambda s: candidates.first[s])
    found = []
    for s, after in zip(chosen, [*chosen[1:], chosen[-1]], strict=True):
        place = (
            int(candidates.end[s]),
            int(candidates.type[s]),
            int(candidates.type[after]),
        )
        taken = [
            o
            for o in range(len(candidates.instance.wire_bits))
            if (*place, o) in model.hop and model.hop[*place, o].value > 0.5
        ]
        found.append(replace(candidates.stages[s], wire=taken[0] if taken else 0))
    return found


def add_variables(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """Adds the variables with their bounds; the box bounds the slowest of both phases."""
    ending = set(zip(candidates.end.tolist(), candidates.type.tolist(), strict=True))
    starting = set(
        zip(candidates.first.tolist(), candidates.type.tolist(), strict=True)
    )
    num_types = candidates.types.num_types
    num_wires = len(candidates.instance.wire_bits)
    hops = [
        (i, t, k, o)
        for i in range(1, candidates.instance.num_layers)
        for t in range(num_types)
        for k in range(num_types)
        for o in range(num_wires)
        if (i, t) in ending
        and (i, k) in starting
        and candidates.types.may_follow(t, k)
        and candidates.types.hop_prefill_s[o, t, k]
        <= candidates.node_bounds.max_prefill_s
        and candidates.types.hop_decode_s[o, t, k]
        <= candidates.node_bounds.max_decode_s
    ]
    model.stage = pyo.Var(range(len(candidates.stages)), domain=pyo.Binary)
    # Between several ways to send, whole stages alone would not decide.
    domain = pyo.Binary if num_wires > 1 else pyo.Reals
    model.hop = pyo.Var(hops, domain=domain, bounds=(0, 1), dense=True)
    steps = _all_steps(candidates, scaling)
    node_bounds, time_s = candidates.node_bounds, scaling.time_s
    model.prefill_slowest = pyo.Var(
        bounds=_bounds(
            node_bounds.min_prefill_s / time_s, node_bounds.max_prefill_s / time_s
        )
    )
    model.decode_slowest = pyo.Var(
        bounds=_bounds(
            node_bounds.min_decode_s * steps, node_bounds.max_decode_s * steps
        )
    )
    model.prefill_time = pyo.Var(domain=pyo.NonNegativeReals)
    model.decode_round = pyo.Var(domain=pyo.NonNegativeReals)
    model.decode_time = pyo.Var(domain=pyo.NonNegativeReals)


def first_stage(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(1) One stage begins the model."""
    del scaling
    begins = np.flatnonzero(candidates.first == 0)
    model.first_stage = pyo.Constraint(expr=_chosen(model, begins) == 1)


def flow_out(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(2) A stage that ends before the model does hands on, from its type."""
    del scaling
    ending = _by_place(candidates.end, candidates.type)
    leaving = defaultdict(list)
    for i, t, k, o in model.hop:
        leaving[i, t].append(model.hop[i, t, k, o])
    model.flow_out = _each(
        _chosen(model, stages) - sum(leaving[i, t]) == 0
        for (i, t), stages in ending.items()
        if i < candidates.instance.num_layers
    )


def flow_in(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(3) A stage that does not begin the model takes over, to its type."""
    del scaling
    starting = _by_place(candidates.first, candidates.type)
    arriving = defaultdict(list)
    for i, t, k, o in model.hop:
        arriving[i, k].append(model.hop[i, t, k, o])
    model.flow_in = _each(
        _chosen(model, stages) - sum(arriving[i, t]) == 0
        for (i, t), stages in starting.items()
        if i > 0
    )


def group_devices(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(4) Stages take no more devices than a pool has; all, where all must be used."""
    del scaling
    types = candidates.types
    widths = types.widths[candidates.type].astype(float)
    held = [
        np.flatnonzero(types.device_group[candidates.type] == q)
        for q in range(types.num_groups)
    ]
    model.group_devices = _each(
        (
            size if types.must_use[device_group] else None,
            _weighted(model, widths, held[device_group]),
            size,
        )
        for device_group, size in enumerate(types.sizes.tolist())
        if len(held[device_group])
    )


def prefill_stages(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(5) The slowest of prefill is no faster than the stage that holds layer i."""
    model.prefill_stages = _each(
        expression - model.prefill_slowest <= 0
        for expression in _holding(
            model, candidates, candidates.prefill_s / scaling.time_s
        )
    )


def prefill_hops(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(6) Nor than the hop at boundary i."""
    model.prefill_hops = _each(
        expression - model.prefill_slowest <= 0
        for expression in _hopping(
            model, candidates.types.hop_prefill_s / scaling.time_s
        )
    )


def prefill_schedule(
    model: Model, candidates: CandidateStages, scaling: Scaling
) -> None:
    """(7) Prefill takes ΣP + (m_p − 1)·max P."""
    model.prefill_schedule = pyo.Constraint(
        expr=_prefill_alone(model, candidates, scaling) - model.prefill_time <= 0
    )


def prefill_hosts(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(8) A share of a shared machine's prefill goes one after the other."""
    factor = candidates.instance.num_prefill / scaling.time_s
    model.prefill_hosts = _each(
        (1 - serial) * _prefill_alone(model, candidates, scaling)
        + work
        - model.prefill_time
        <= 0
        for serial, work in _host_work(
            model, candidates, factor * candidates.prefill_s, "prefill"
        )
    )


def decode_stages(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(9) The slowest of decode is no faster than the stage that holds layer i."""
    seconds = candidates.decode_s * _all_steps(candidates, scaling)
    model.decode_stages = _each(
        expression - model.decode_slowest <= 0
        for expression in _holding(model, candidates, seconds)
    )


def decode_hops(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(10) Nor than the hop at boundary i."""
    seconds = candidates.types.hop_decode_s * _all_steps(candidates, scaling)
    model.decode_hops = _each(
        expression - model.decode_slowest <= 0
        for expression in _hopping(model, seconds)
    )


def busy_round(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(11) A round is no shorter than the slowest resource's work: m_d·max D."""
    del scaling
    busy = candidates.instance.num_decode * model.decode_slowest
    model.busy_round = pyo.Constraint(expr=busy - model.decode_round <= 0)


def empty_round(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(12) Nor than one micro-batch's way through: ΣD."""
    once = _decode_once(model, candidates, scaling)
    model.empty_round = pyo.Constraint(expr=once - model.decode_round <= 0)


def decode_schedule(
    model: Model, candidates: CandidateStages, scaling: Scaling
) -> None:
    """(13) Decode takes ΣD + (m_d − 1)·max D + (n − 2)·round, each D of one step."""
    model.decode_schedule = pyo.Constraint(
        expr=_decode_alone(model, candidates, scaling) - model.decode_time <= 0
    )


def decode_hosts(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(14) A share of a shared machine's decode goes one after the other."""
    factor = candidates.instance.num_decode * _all_steps(candidates, scaling)
    model.decode_hosts = _each(
        (1 - serial) * _decode_alone(model, candidates, scaling)
        + work
        - model.decode_time
        <= 0
        for serial, work in _host_work(
            model, candidates, factor * candidates.decode_s, "decode"
        )
    )


def omega_budget(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(15) Σω, the head's and the cache's included, stays within the budget."""
    i = candidates.instance
    # Where no stage loses anything there is nothing to hold, and Pyomo wants a variable.
    if i.omega_budget is None or not (candidates.omega.any() or i.wire_omega.any()):
        return
    model.omega_budget = pyo.Constraint(
        expr=_omega(model, candidates, 1.0 / scaling.omega)
        <= (i.omega_budget - i.fixed_omega) / scaling.omega
    )


def add_objective(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """Minimises latency plus θ·Σω."""
    i = candidates.instance
    theta = i.theta / scaling.time_s
    omega = _omega(model, candidates, theta)
    model.objective = pyo.Objective(
        expr=model.prefill_time + model.decode_time + omega + theta * i.fixed_omega
    )


PATHS: tuple[Add, ...] = (first_stage, flow_out, flow_in, group_devices)
PREFILL: tuple[Add, ...] = (
    prefill_stages,
    prefill_hops,
    prefill_schedule,
    prefill_hosts,
)
DECODE: tuple[Add, ...] = (
    decode_stages,
    decode_hops,
    busy_round,
    empty_round,
    decode_schedule,
    decode_hosts,
)
# In the order of their numbers in docs/formulation.md, from (1) on.
CONSTRAINTS = (*PATHS, *PREFILL, *DECODE, omega_budget)


def _each(rows: Iterable[Model]) -> pyo.Constraint:
    """One constraint for each row."""
    held = list(rows)
    return pyo.Constraint(range(len(held)), rule=lambda _, row: held[row])


def _bounds(least: float, most: float) -> tuple[float, float | None]:
    return least, most if np.isfinite(most) else None


def _all_steps(candidates: CandidateStages, scaling: Scaling) -> float:
    return (candidates.instance.new_tokens - 1) / scaling.time_s


def _by_place(boundary: Integers, types: Integers) -> dict[tuple[int, int], list[int]]:
    places: dict[tuple[int, int], list[int]] = defaultdict(list)
    for s, place in enumerate(zip(boundary.tolist(), types.tolist(), strict=True)):
        places[place].append(s)
    return places


def _chosen(model: Model, stages: Iterable[int]) -> Model:
    return pyo.quicksum(model.stage[int(s)] for s in stages)


def _weighted(model: Model, weights: Floats, stages: Iterable[int]) -> Model:
    terms = [(float(weights[s]), model.stage[int(s)]) for s in stages if weights[s]]
    return pyo.quicksum((w * stage for w, stage in terms)) if terms else 0.0


def _holding(
    model: Model, candidates: CandidateStages, seconds: Floats
) -> Iterable[Model]:
    for i in range(candidates.instance.num_layers):
        stages = np.flatnonzero((candidates.first <= i) & (i < candidates.end))
        if len(stages):
            yield _weighted(model, seconds, stages)


def _hopping(model: Model, seconds: Floats) -> Iterable[Model]:
    at: dict[int, list[Model]] = defaultdict(list)
    for i, t, k, o in model.hop:
        if seconds[o, t, k] > 0:
            at[i].append(float(seconds[o, t, k]) * model.hop[i, t, k, o])
    return [sum(terms) for terms in at.values()]


def _once(model: Model, stage_s: Floats, hop_s: Floats) -> Model:
    hops = [
        float(hop_s[o, t, k]) * model.hop[i, t, k, o]
        for i, t, k, o in model.hop
        if hop_s[o, t, k] > 0
    ]
    return _weighted(model, stage_s, range(len(stage_s))) + sum(hops)


def _omega(model: Model, candidates: CandidateStages, scale: float) -> Model:
    """Σω of stages and hops."""
    loss = scale * candidates.instance.wire_omega
    hops = [
        float(loss[o]) * model.hop[i, t, k, o]
        for i, t, k, o in model.hop
        if loss[o] > 0
    ]
    return _weighted(
        model, scale * candidates.omega, range(len(candidates.stages))
    ) + sum(hops)


def _decode_once(model: Model, candidates: CandidateStages, scaling: Scaling) -> Model:
    steps = _all_steps(candidates, scaling)
    return _once(
        model, steps * candidates.decode_s, steps * candidates.types.hop_decode_s
    )


def _prefill_alone(
    model: Model, candidates: CandidateStages, scaling: Scaling
) -> Model:
    """What prefill takes where nothing is shared."""
    once = _once(
        model,
        candidates.prefill_s / scaling.time_s,
        candidates.types.hop_prefill_s / scaling.time_s,
    )
    return once + (candidates.instance.num_prefill - 1) * model.prefill_slowest


def _decode_alone(model: Model, candidates: CandidateStages, scaling: Scaling) -> Model:
    """What decode takes where nothing is shared."""
    steps = candidates.instance.new_tokens - 1
    return (
        (1.0 / steps) * _decode_once(model, candidates, scaling)
        + (candidates.instance.num_decode - 1) / steps * model.decode_slowest
        + (steps - 1) / steps * model.decode_round
    )


def _host_work(
    model: Model, candidates: CandidateStages, seconds: Floats, phase: Phase
) -> Iterable[tuple[float, Model]]:
    """Yields of each shared machine its serial fraction, and that of its work."""
    for host, types in zip(
        candidates.instance.hosts, candidates.types.hosts, strict=True
    ):
        serial = host.serial_fraction(phase)
        # A mesh works on all of its devices, and its type stands there as often.
        often = np.bincount(types, minlength=candidates.types.num_types)[
            candidates.type
        ]
        stages = np.flatnonzero(often)
        if len(stages):
            yield serial, _weighted(model, serial * often * seconds, stages)
