"""Constraints (1) to (11): candidate stages on any devices in any order.

A plan is a path through the boundaries between layers: a stage takes it from one to a
later one on a device of some type, a hop from that type to the next one's. What stages
hold and what they cost is in the candidate stages; docs/formulation.md has the table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyomo.environ as pyo

from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.search.bounds import all_rounds, scaling_of
from llmpq_jax.planner.search.node_mip.candidate_stages import CandidateStages
from llmpq_jax.planner.search.node_mip.expressions import (
    ArcFlow,
    Row,
    by_boundary,
)
from llmpq_jax.planner.search.node_mip.highs import Model
from llmpq_jax.planner.search.stage_costs import TypedStage
from llmpq_jax.planner.search.time_limit import CheckTime, unlimited
from llmpq_jax.schema.measurements import PHASES

Add = Callable[[ArcFlow], None]


def formulate(
    candidates: CandidateStages, *, check_time: CheckTime = unlimited
) -> ArcFlow:
    """Writes candidate stages as a mixed-integer linear model.

    `check_time` is called before each row.
    """
    flow = ArcFlow(
        candidates=candidates,
        scaling=scaling_of(candidates.instance),
        check_time=check_time,
    )
    add_variables(flow)
    for add in constraints(candidates.instance.phases).values():
        add(flow)
    add_objective(flow)
    return flow


def chosen_stages(flow: ArcFlow) -> list[TypedStage]:
    """Reads the plan off a solved model: its stages in order, and how they send."""
    model, candidates = flow.model, flow.candidates
    chosen = [s for s in range(len(candidates.stages)) if model.stage[s].value > 0.5]
    chosen.sort(key=lambda s: candidates.first[s])
    stages = []
    for s, after in zip(chosen, [*chosen[1:], chosen[-1]], strict=True):
        hop = (
            int(candidates.end[s]),
            int(candidates.type[s]),
            int(candidates.type[after]),
        )
        wires = [
            o
            for o in range(len(candidates.instance.wire_bits))
            if (*hop, o) in model.hop and model.hop[*hop, o].value > 0.5
        ]
        wire_index = wires[0] if wires else 0
        stages.append(replace(candidates.stages[s], wire_index=wire_index))
    return stages


def add_variables(flow: ArcFlow) -> None:
    """Adds the variables; the node's bounds are those of the slowest of each phase."""
    model, candidates = flow.model, flow.candidates
    instance, types = candidates.instance, candidates.types
    ending = by_boundary(candidates.end, candidates.type)
    starting = by_boundary(candidates.first, candidates.type)
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
    lower, upper = (
        dict(zip(PHASES, all_rounds(s, instance, flow.scaling.time_s), strict=True))
        for s in (min_s, max_s)
    )
    model.slowest = pyo.Var(
        PHASES,
        bounds=lambda _, phase: (
            float(lower[phase]),
            float(upper[phase]) if np.isfinite(upper[phase]) else None,
        ),
    )
    model.time = pyo.Var(PHASES, domain=pyo.NonNegativeReals)
    model.round = pyo.Var(domain=pyo.NonNegativeReals)


def first_stage(flow: ArcFlow) -> None:
    """(1) One stage starts the model."""
    starts = np.flatnonzero(flow.candidates.first == 0)
    flow.add_row("first_stage", (1.0, flow.sum_of_stages(starts), 1.0))


def flow_out(flow: ArcFlow) -> None:
    """(2) A stage that ends before the model does sends, from its type."""
    flow.add_rows("flow_out", _as_many_hops(flow, flow.candidates.end, 1))


def flow_in(flow: ArcFlow) -> None:
    """(3) A stage that does not start the model receives, on its type."""
    flow.add_rows("flow_in", _as_many_hops(flow, flow.candidates.first, 2))


def _as_many_hops(flow: ArcFlow, boundary: Integers, side: int) -> Iterator[Row]:
    """Stages at an inner boundary on a type are as many as hops there, on that side."""
    hops = defaultdict(list)
    for hop in flow.model.hop:
        hops[hop[0], hop[side]].append(flow.model.hop[hop])
    for key, stages in by_boundary(boundary, flow.candidates.type).items():
        if 0 < key[0] < flow.candidates.instance.num_layers:
            yield 0.0, flow.sum_of_stages(stages) - sum(hops[key]), 0.0


def group_devices(flow: ArcFlow) -> None:
    """(4) Stages take no more devices than a group has; all, where all must be used."""
    types, type_of = flow.candidates.types, flow.candidates.type
    widths = types.widths[type_of].astype(float)
    of_group = [
        np.flatnonzero(types.group_of[type_of] == q) for q in range(types.num_groups)
    ]
    flow.add_rows(
        "group_devices",
        (
            (
                size if types.must_use[q] else None,
                flow.weighted_stages(widths, of_group[q]),
                size,
            )
            for q, size in enumerate(types.group_sizes.tolist())
        ),
    )


def slowest_stage(flow: ArcFlow, *, p: int) -> None:
    """(5) The slowest of a phase is no faster than the stage that holds layer i."""
    candidates, seconds = flow.candidates, flow.stage_seconds(p)
    slowest = flow.model.slowest[PHASES[p]]
    holding = (
        np.flatnonzero((candidates.first <= i) & (i < candidates.end))
        for i in range(candidates.instance.num_layers)
    )
    flow.add_rows(
        f"{PHASES[p]}_slowest_stage",
        (
            (None, flow.weighted_stages(seconds, stages) - slowest, 0.0)
            for stages in holding
            if len(stages)
        ),
    )


def slowest_hop(flow: ArcFlow, *, p: int) -> None:
    """(6) Nor than the hop at boundary i."""
    model, seconds = flow.model, flow.hop_seconds(p)
    at: dict[int, list[Model]] = defaultdict(list)
    for i, t, k, o in model.hop:
        if seconds[o, t, k] > 0:
            at[i].append(float(seconds[o, t, k]) * model.hop[i, t, k, o])
    slowest = model.slowest[PHASES[p]]
    rows = ((None, sum(terms) - slowest, 0.0) for terms in at.values())
    flow.add_rows(f"{PHASES[p]}_slowest_hop", rows)


def busy_round(flow: ArcFlow) -> None:
    """(7) A round of decode is no shorter than the work of its slowest."""
    m = flow.candidates.instance.num_micro_batches[DECODE]
    busy = m * flow.model.slowest["decode"]
    flow.add_row("busy_round", (None, busy - flow.model.round, 0.0))


def empty_round(flow: ArcFlow) -> None:
    """(8) Nor than the passage of one micro-batch."""
    once = flow.one_passage(DECODE)
    flow.add_row("empty_round", (None, once - flow.model.round, 0.0))


def schedule(flow: ArcFlow, *, p: int) -> None:
    """(9) A phase takes one passage, the other micro-batches and the later rounds."""
    needed = flow.unshared_time(p) - flow.model.time[PHASES[p]]
    flow.add_row(f"{PHASES[p]}_schedule", (None, needed, 0.0))


def shared_hosts(flow: ArcFlow, *, p: int) -> None:
    """(10) A share of a shared machine's work is serial."""
    phase, candidates = PHASES[p], flow.candidates
    instance, types = candidates.instance, candidates.types
    work_s = instance.num_micro_batches[p] * flow.stage_seconds(p)
    rows: list[Row] = []
    for host, members in zip(instance.hosts, types.hosts, strict=True):
        serial = host.serial_fraction(phase)
        # A mesh works on all of its devices, and its type is listed as often.
        times = np.bincount(members, minlength=types.num_types)[candidates.type]
        stages = np.flatnonzero(times)
        if len(stages):
            alone = (1 - serial) * flow.unshared_time(p)
            work = flow.weighted_stages(serial * times * work_s, stages)
            rows.append((None, alone + work - flow.model.time[phase], 0.0))
    flow.add_rows(f"{phase}_shared_hosts", rows)


def omega_budget(flow: ArcFlow) -> None:
    """(11) Σω, the head's and the cache's included, stays within the budget."""
    i, unit = flow.candidates.instance, flow.scaling.omega
    if i.omega_budget is not None:
        left = (i.omega_budget - i.fixed_omega) / unit
        flow.add_row("omega_budget", (None, flow.total_omega(1.0 / unit), left))


def add_objective(flow: ArcFlow) -> None:
    """Minimises latency plus θ·Σω."""
    i, model = flow.candidates.instance, flow.model
    theta = i.theta / flow.scaling.time_s
    time = model.time["prefill"] + model.time["decode"]
    omega = flow.total_omega(theta)
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
