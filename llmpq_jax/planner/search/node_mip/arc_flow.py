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
from llmpq_jax.planner.search.node_mip.candidate_stages import Arcs
from llmpq_jax.planner.search.node_mip.scaling import Model, Units, units_of
from llmpq_jax.planner.search.stage_costs import PathStage
from llmpq_jax.schema.measurements import Phase

Add = Callable[[Model, Arcs, Units], None]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class OrderFree:
    """A model ready to be solved.

    Attributes:
        model: Of Pyomo; `stage[s]` says whether column s is in the plan.
        unit: Seconds that 1 in the objective stands for.
    """

    model: Model
    unit: float


def formulate_arcs(arcs: Arcs) -> OrderFree:
    """Writes an order-free problem as a model."""
    units = units_of(arcs.instance)
    model = pyo.ConcreteModel()
    add_variables(model, arcs, units)
    constraints = PATHS + PREFILL
    constraints += DECODE if arcs.instance.new_tokens > 1 else ()
    for add in (*constraints, omega_budget):
        add(model, arcs, units)
    add_objective(model, arcs, units)
    return OrderFree(model=model, unit=units.time_s)


def chosen_stages(model: Model, arcs: Arcs) -> list[PathStage]:
    """Reads the plan off a solved model: its stages in order, and how they hand on."""
    chosen = [s for s in range(len(arcs.stages)) if model.stage[s].value > 0.5]
    chosen.sort(key=lambda s: arcs.first[s])
    found = []
    for s, after in zip(chosen, [*chosen[1:], chosen[-1]], strict=True):
        place = (int(arcs.end[s]), int(arcs.type[s]), int(arcs.type[after]))
        taken = [
            o
            for o in range(len(arcs.instance.wire_bits))
            if (*place, o) in model.hop and model.hop[*place, o].value > 0.5
        ]
        found.append(replace(arcs.stages[s], wire=taken[0] if taken else 0))
    return found


def add_variables(model: Model, arcs: Arcs, units: Units) -> None:
    """Adds the variables with their bounds; the box bounds the slowest of both phases."""
    ending = set(zip(arcs.end.tolist(), arcs.type.tolist(), strict=True))
    starting = set(zip(arcs.first.tolist(), arcs.type.tolist(), strict=True))
    num_types = arcs.types.num_types
    num_wires = len(arcs.instance.wire_bits)
    hops = [
        (i, t, k, o)
        for i in range(1, arcs.instance.num_layers)
        for t in range(num_types)
        for k in range(num_types)
        for o in range(num_wires)
        if (i, t) in ending
        and (i, k) in starting
        and arcs.types.may_follow(t, k)
        and arcs.types.hop_prefill_s[o, t, k] <= arcs.box.most_prefill
        and arcs.types.hop_decode_s[o, t, k] <= arcs.box.most_decode
    ]
    model.stage = pyo.Var(range(len(arcs.stages)), domain=pyo.Binary)
    # Between several ways to send, whole stages alone would not decide.
    domain = pyo.Binary if num_wires > 1 else pyo.Reals
    model.hop = pyo.Var(hops, domain=domain, bounds=(0, 1), dense=True)
    steps = _all_steps(arcs, units)
    box, time_s = arcs.box, units.time_s
    model.prefill_slowest = pyo.Var(
        bounds=_bounds(box.least_prefill / time_s, box.most_prefill / time_s)
    )
    model.decode_slowest = pyo.Var(
        bounds=_bounds(box.least_decode * steps, box.most_decode * steps)
    )
    model.prefill_time = pyo.Var(domain=pyo.NonNegativeReals)
    model.decode_round = pyo.Var(domain=pyo.NonNegativeReals)
    model.decode_time = pyo.Var(domain=pyo.NonNegativeReals)


def first_stage(model: Model, arcs: Arcs, units: Units) -> None:
    """(1) One stage begins the model."""
    del units
    begins = np.flatnonzero(arcs.first == 0)
    model.first_stage = pyo.Constraint(expr=_chosen(model, begins) == 1)


def flow_out(model: Model, arcs: Arcs, units: Units) -> None:
    """(2) A stage that ends before the model does hands on, from its type."""
    del units
    ending = _by_place(arcs.end, arcs.type)
    leaving = defaultdict(list)
    for i, t, k, o in model.hop:
        leaving[i, t].append(model.hop[i, t, k, o])
    model.flow_out = _each(
        _chosen(model, stages) - sum(leaving[i, t]) == 0
        for (i, t), stages in ending.items()
        if i < arcs.instance.num_layers
    )


def flow_in(model: Model, arcs: Arcs, units: Units) -> None:
    """(3) A stage that does not begin the model takes over, to its type."""
    del units
    starting = _by_place(arcs.first, arcs.type)
    arriving = defaultdict(list)
    for i, t, k, o in model.hop:
        arriving[i, k].append(model.hop[i, t, k, o])
    model.flow_in = _each(
        _chosen(model, stages) - sum(arriving[i, t]) == 0
        for (i, t), stages in starting.items()
        if i > 0
    )


def group_devices(model: Model, arcs: Arcs, units: Units) -> None:
    """(4) Stages take no more devices than a pool has; all, where all must be used."""
    del units
    types = arcs.types
    widths = types.widths[arcs.type].astype(float)
    held = [np.flatnonzero(types.pool[arcs.type] == q) for q in range(types.num_pools)]
    model.group_devices = _each(
        (
            size if types.must_use[pool] else None,
            _weighted(model, widths, held[pool]),
            size,
        )
        for pool, size in enumerate(types.sizes.tolist())
        if len(held[pool])
    )


def prefill_stages(model: Model, arcs: Arcs, units: Units) -> None:
    """(5) The slowest of prefill is no faster than the stage that holds layer i."""
    model.prefill_stages = _each(
        expression - model.prefill_slowest <= 0
        for expression in _holding(model, arcs, arcs.prefill_s / units.time_s)
    )


def prefill_hops(model: Model, arcs: Arcs, units: Units) -> None:
    """(6) Nor than the hop at boundary i."""
    model.prefill_hops = _each(
        expression - model.prefill_slowest <= 0
        for expression in _hopping(model, arcs.types.hop_prefill_s / units.time_s)
    )


def prefill_schedule(model: Model, arcs: Arcs, units: Units) -> None:
    """(7) Prefill takes ΣP + (m_p − 1)·max P."""
    model.prefill_schedule = pyo.Constraint(
        expr=_prefill_alone(model, arcs, units) - model.prefill_time <= 0
    )


def prefill_hosts(model: Model, arcs: Arcs, units: Units) -> None:
    """(8) A share of a shared machine's prefill goes one after the other."""
    factor = arcs.instance.num_prefill / units.time_s
    model.prefill_hosts = _each(
        (1 - serial) * _prefill_alone(model, arcs, units) + work - model.prefill_time
        <= 0
        for serial, work in _host_work(model, arcs, factor * arcs.prefill_s, "prefill")
    )


def decode_stages(model: Model, arcs: Arcs, units: Units) -> None:
    """(9) The slowest of decode is no faster than the stage that holds layer i."""
    seconds = arcs.decode_s * _all_steps(arcs, units)
    model.decode_stages = _each(
        expression - model.decode_slowest <= 0
        for expression in _holding(model, arcs, seconds)
    )


def decode_hops(model: Model, arcs: Arcs, units: Units) -> None:
    """(10) Nor than the hop at boundary i."""
    seconds = arcs.types.hop_decode_s * _all_steps(arcs, units)
    model.decode_hops = _each(
        expression - model.decode_slowest <= 0
        for expression in _hopping(model, seconds)
    )


def busy_round(model: Model, arcs: Arcs, units: Units) -> None:
    """(11) A round is no shorter than the slowest resource's work: m_d·max D."""
    del units
    busy = arcs.instance.num_decode * model.decode_slowest
    model.busy_round = pyo.Constraint(expr=busy - model.decode_round <= 0)


def empty_round(model: Model, arcs: Arcs, units: Units) -> None:
    """(12) Nor than one micro-batch's way through: ΣD."""
    once = _decode_once(model, arcs, units)
    model.empty_round = pyo.Constraint(expr=once - model.decode_round <= 0)


def decode_schedule(model: Model, arcs: Arcs, units: Units) -> None:
    """(13) Decode takes ΣD + (m_d − 1)·max D + (n − 2)·round, each D of one step."""
    model.decode_schedule = pyo.Constraint(
        expr=_decode_alone(model, arcs, units) - model.decode_time <= 0
    )


def decode_hosts(model: Model, arcs: Arcs, units: Units) -> None:
    """(14) A share of a shared machine's decode goes one after the other."""
    factor = arcs.instance.num_decode * _all_steps(arcs, units)
    model.decode_hosts = _each(
        (1 - serial) * _decode_alone(model, arcs, units) + work - model.decode_time <= 0
        for serial, work in _host_work(model, arcs, factor * arcs.decode_s, "decode")
    )


def omega_budget(model: Model, arcs: Arcs, units: Units) -> None:
    """(15) Σω, the head's and the cache's included, stays within the budget."""
    i = arcs.instance
    # Where no stage loses anything there is nothing to hold, and Pyomo wants a variable.
    if i.omega_budget is None or not (arcs.omega.any() or i.wire_omega.any()):
        return
    model.omega_budget = pyo.Constraint(
        expr=_omega(model, arcs, 1.0 / units.omega)
        <= (i.omega_budget - i.fixed_omega) / units.omega
    )


def add_objective(model: Model, arcs: Arcs, units: Units) -> None:
    """Minimises latency plus θ·Σω."""
    i = arcs.instance
    price = i.theta / units.time_s
    omega = _omega(model, arcs, price)
    model.objective = pyo.Objective(
        expr=model.prefill_time + model.decode_time + omega + price * i.fixed_omega
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


def _all_steps(arcs: Arcs, units: Units) -> float:
    return (arcs.instance.new_tokens - 1) / units.time_s


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


def _holding(model: Model, arcs: Arcs, seconds: Floats) -> Iterable[Model]:
    for i in range(arcs.instance.num_layers):
        stages = np.flatnonzero((arcs.first <= i) & (i < arcs.end))
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


def _omega(model: Model, arcs: Arcs, scale: float) -> Model:
    """Σω of stages and hops."""
    loss = scale * arcs.instance.wire_omega
    hops = [
        float(loss[o]) * model.hop[i, t, k, o]
        for i, t, k, o in model.hop
        if loss[o] > 0
    ]
    return _weighted(model, scale * arcs.omega, range(len(arcs.stages))) + sum(hops)


def _decode_once(model: Model, arcs: Arcs, units: Units) -> Model:
    steps = _all_steps(arcs, units)
    return _once(model, steps * arcs.decode_s, steps * arcs.types.hop_decode_s)


def _prefill_alone(model: Model, arcs: Arcs, units: Units) -> Model:
    """What prefill takes where nothing is shared."""
    once = _once(
        model, arcs.prefill_s / units.time_s, arcs.types.hop_prefill_s / units.time_s
    )
    return once + (arcs.instance.num_prefill - 1) * model.prefill_slowest


def _decode_alone(model: Model, arcs: Arcs, units: Units) -> Model:
    """What decode takes where nothing is shared."""
    steps = arcs.instance.new_tokens - 1
    return (
        (1.0 / steps) * _decode_once(model, arcs, units)
        + (arcs.instance.num_decode - 1) / steps * model.decode_slowest
        + (steps - 1) / steps * model.decode_round
    )


def _host_work(
    model: Model, arcs: Arcs, seconds: Floats, phase: Phase
) -> Iterable[tuple[float, Model]]:
    """Yields of each shared machine its serial fraction, and that of its work."""
    for host, types in zip(arcs.instance.hosts, arcs.types.hosts, strict=True):
        serial = host.serial_fraction(phase)
        # A mesh works on all of its devices, and its type stands there as often.
        often = np.bincount(types, minlength=arcs.types.num_types)[arcs.type]
        stages = np.flatnonzero(often)
        if len(stages):
            yield serial, _weighted(model, serial * often * seconds, stages)
