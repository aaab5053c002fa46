"""Constraints (1) to (11): candidate stages on any devices in any order.

A plan is a path through the boundaries between layers: a stage takes it from one to a
later one on a device of some type, a hop from that type to the next one's. What stages
hold and what they cost is in the candidate stages; docs/formulation.md has the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyomo.environ as pyo

from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.search.node_mip.candidate_stages import CandidateStages
from llmpq_jax.planner.search.node_mip.expressions import (
    by_boundary,
    constraint_list,
    hop_seconds,
    one_passage,
    stage_seconds,
    sum_of_stages,
    total_omega,
    unshared_time,
    weighted_stages,
)
from llmpq_jax.planner.search.node_mip.highs import Model
from llmpq_jax.planner.search.scaling import Scaling, all_rounds, scaling_of
from llmpq_jax.planner.search.stage_costs import TypedStage
from llmpq_jax.schema.measurements import PHASES

Add = Callable[[Model, CandidateStages, Scaling], None]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class ArcFlow:
    """A model ready to be solved.

    Attributes:
        model: Pyomo model; `stage[s]` says whether candidate stage s is in the plan.
        unit: Unit of the objective in seconds.
    """

    model: Model
    unit: float


def formulate(candidates: CandidateStages) -> ArcFlow:
    """Writes candidate stages as a mixed-integer linear model."""
    scaling = scaling_of(candidates.instance)
    model = pyo.ConcreteModel()
    add_variables(model, candidates, scaling)
    for add in constraints(candidates.instance.phases).values():
        add(model, candidates, scaling)
    add_objective(model, candidates, scaling)
    return ArcFlow(model=model, unit=scaling.time_s)


def chosen_stages(model: Model, candidates: CandidateStages) -> list[TypedStage]:
    """Reads the plan off a solved model: its stages in order, and how they send."""
    chosen = [s for s in range(len(candidates.stages)) if model.stage[s].value > 0.5]
    chosen.sort(key=lambda s: candidates.first[s])
    stages = []
    for s, after in zip(chosen, [*chosen[1:], chosen[-1]], strict=True):
        boundary = int(candidates.end[s])
        types = int(candidates.type[s]), int(candidates.type[after])
        wires = [
            o
            for o in range(len(candidates.instance.wire_bits))
            if (boundary, *types, o) in model.hop
            and model.hop[boundary, *types, o].value > 0.5
        ]
        wire_index = wires[0] if wires else 0
        stages.append(replace(candidates.stages[s], wire_index=wire_index))
    return stages


def add_variables(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """Adds the variables; the node's bounds are those of the slowest of each phase."""
    instance, types = candidates.instance, candidates.types
    ending = set(zip(candidates.end.tolist(), candidates.type.tolist(), strict=True))
    starting = set(
        zip(candidates.first.tolist(), candidates.type.tolist(), strict=True)
    )
    min_s, max_s = np.array(
        [candidates.node_bounds.min_s, candidates.node_bounds.max_s]
    )
    is_allowed = (types.hop_s <= max_s[:, None, None, None]).all(axis=0)
    num_wires = len(instance.wire_bits)
    hops = [
        (i, t, k, o)
        for i in range(1, instance.num_layers)
        for t in range(types.num_types)
        for k in range(types.num_types)
        for o in range(num_wires)
        if (i, t) in ending
        and (i, k) in starting
        and types.may_follow(t, k)
        and is_allowed[o, t, k]
    ]
    model.stage = pyo.Var(range(len(candidates.stages)), domain=pyo.Binary)
    # Between several precisions of a hop, whole stages alone would not decide.
    domain = pyo.Binary if num_wires > 1 else pyo.Reals
    model.hop = pyo.Var(hops, domain=domain, bounds=(0, 1), dense=True)
    lower = dict(zip(PHASES, all_rounds(min_s, instance, scaling.time_s), strict=True))
    upper = dict(zip(PHASES, all_rounds(max_s, instance, scaling.time_s), strict=True))
    model.slowest = pyo.Var(
        PHASES,
        bounds=lambda _, phase: (
            float(lower[phase]),
            float(upper[phase]) if np.isfinite(upper[phase]) else None,
        ),
    )
    model.time = pyo.Var(PHASES, domain=pyo.NonNegativeReals)
    model.round = pyo.Var(domain=pyo.NonNegativeReals)


def first_stage(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(1) One stage starts the model."""
    del scaling
    starts = np.flatnonzero(candidates.first == 0)
    model.first_stage = pyo.Constraint(expr=sum_of_stages(model, starts) == 1)


def flow_out(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(2) A stage that ends before the model does sends, from its type."""
    del scaling
    ending = by_boundary(candidates.end, candidates.type)
    leaving = defaultdict(list)
    for i, t, k, o in model.hop:
        leaving[i, t].append(model.hop[i, t, k, o])
    model.flow_out = constraint_list(
        sum_of_stages(model, stages) - sum(leaving[i, t]) == 0
        for (i, t), stages in ending.items()
        if i < candidates.instance.num_layers
    )


def flow_in(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(3) A stage that does not start the model receives, on its type."""
    del scaling
    starting = by_boundary(candidates.first, candidates.type)
    arriving = defaultdict(list)
    for i, t, k, o in model.hop:
        arriving[i, k].append(model.hop[i, t, k, o])
    model.flow_in = constraint_list(
        sum_of_stages(model, stages) - sum(arriving[i, t]) == 0
        for (i, t), stages in starting.items()
        if i > 0
    )


def group_devices(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(4) Stages take no more devices than a group has; all, where all must be used."""
    del scaling
    types = candidates.types
    widths = types.widths[candidates.type].astype(float)
    on_group = [
        np.flatnonzero(types.group_of[candidates.type] == q)
        for q in range(types.num_groups)
    ]
    model.group_devices = constraint_list(
        (
            size if types.must_use[q] else None,
            weighted_stages(model, widths, stages),
            size,
        )
        for q, (size, stages) in enumerate(
            zip(types.group_sizes.tolist(), on_group, strict=True)
        )
        if len(stages)
    )


def slowest_stage(
    model: Model, candidates: CandidateStages, scaling: Scaling, *, p: int
) -> None:
    """(5) The slowest of a phase is no faster than the stage that holds layer i."""
    seconds = stage_seconds(candidates, scaling, p)
    holding = (
        np.flatnonzero((candidates.first <= i) & (i < candidates.end))
        for i in range(candidates.instance.num_layers)
    )
    rows = constraint_list(
        weighted_stages(model, seconds, stages) - model.slowest[PHASES[p]] <= 0
        for stages in holding
        if len(stages)
    )
    model.add_component(f"{PHASES[p]}_slowest_stage", rows)


def slowest_hop(
    model: Model, candidates: CandidateStages, scaling: Scaling, *, p: int
) -> None:
    """(6) Nor than the hop at boundary i."""
    seconds = hop_seconds(candidates, scaling, p)
    at: dict[int, list[Model]] = defaultdict(list)
    for i, t, k, o in model.hop:
        if seconds[o, t, k] > 0:
            at[i].append(float(seconds[o, t, k]) * model.hop[i, t, k, o])
    rows = constraint_list(
        sum(terms) - model.slowest[PHASES[p]] <= 0 for terms in at.values()
    )
    model.add_component(f"{PHASES[p]}_slowest_hop", rows)


def busy_round(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(7) A round of decode is no shorter than the work of its slowest."""
    del scaling
    busy = candidates.instance.num_micro_batches[DECODE] * model.slowest["decode"]
    model.busy_round = pyo.Constraint(expr=busy - model.round <= 0)


def empty_round(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(8) Nor than the passage of one micro-batch."""
    once = one_passage(model, candidates, scaling, DECODE)
    model.empty_round = pyo.Constraint(expr=once - model.round <= 0)


def schedule(
    model: Model, candidates: CandidateStages, scaling: Scaling, *, p: int
) -> None:
    """(9) A phase takes one passage, the other micro-batches and the later rounds."""
    alone = unshared_time(model, candidates, scaling, p)
    row = pyo.Constraint(expr=alone - model.time[PHASES[p]] <= 0)
    model.add_component(f"{PHASES[p]}_schedule", row)


def shared_hosts(
    model: Model, candidates: CandidateStages, scaling: Scaling, *, p: int
) -> None:
    """(10) A share of a shared machine's work is serial."""
    phase, num_types = PHASES[p], candidates.types.num_types
    seconds = stage_seconds(candidates, scaling, p)
    work_s = candidates.instance.num_micro_batches[p] * seconds
    rows = []
    for host, types in zip(
        candidates.instance.hosts, candidates.types.hosts, strict=True
    ):
        serial = host.serial_fraction(phase)
        # A mesh works on all of its devices, and its type is listed as often.
        times = np.bincount(types, minlength=num_types)[candidates.type]
        stages = np.flatnonzero(times)
        if len(stages):
            alone = (1 - serial) * unshared_time(model, candidates, scaling, p)
            work = weighted_stages(model, serial * times * work_s, stages)
            rows.append(alone + work - model.time[phase] <= 0)
    model.add_component(f"{phase}_shared_hosts", constraint_list(rows))


def omega_budget(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """(11) Σω, the head's and the cache's included, stays within the budget."""
    i = candidates.instance
    # Where no stage loses anything there is nothing to hold, and Pyomo wants a variable.
    if i.omega_budget is None or not (candidates.omega.any() or i.wire_omega.any()):
        return
    model.omega_budget = pyo.Constraint(
        expr=total_omega(model, candidates, 1.0 / scaling.omega)
        <= (i.omega_budget - i.fixed_omega) / scaling.omega
    )


def add_objective(model: Model, candidates: CandidateStages, scaling: Scaling) -> None:
    """Minimises latency plus θ·Σω."""
    i = candidates.instance
    theta = i.theta / scaling.time_s
    time = model.time["prefill"] + model.time["decode"]
    omega = total_omega(model, candidates, theta)
    model.objective = pyo.Objective(expr=time + omega + theta * i.fixed_omega)


PATHS = (first_stage, flow_out, flow_in, group_devices)
# In the order of their numbers in docs/formulation.md, from (1) on.
CONSTRAINTS = (
    *PATHS,
    *(slowest_stage, slowest_hop, busy_round, empty_round, schedule, shared_hosts),
    omega_budget,
)


def constraints(phases: Sequence[int] = (PREFILL, DECODE)) -> dict[str, Add]:
    """Returns all constraints by their Pyomo names, those of a phase together."""
    named: dict[str, Add] = {add.__name__: add for add in PATHS}
    for p in phases:
        named |= _of_phase(p, slowest_stage, slowest_hop)
        if p == DECODE:
            named |= {"busy_round": busy_round, "empty_round": empty_round}
        named |= _of_phase(p, schedule, shared_hosts)
    return named | {"omega_budget": omega_budget}


def _of_phase(p: int, *adds: Any) -> dict[str, Add]:
    return {f"{PHASES[p]}_{add.__name__}": partial(add, p=p) for add in adds}
