"""Expressions that several constraints of the arc-flow model share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyomo.environ as pyo
from jaxtyping import Float

from llmpq_jax.planner.instance.device_numbers import PREFILL
from llmpq_jax.planner.instance.instance import Integers
from llmpq_jax.planner.search.node_mip.candidate_stages import CandidateStages
from llmpq_jax.planner.search.node_mip.highs import Model
from llmpq_jax.planner.search.scaling import Scaling, all_rounds
from llmpq_jax.schema.measurements import PHASES


def constraint_list(rows: Iterable[Model]) -> pyo.Constraint:
    """Returns one constraint for each row."""
    held = list(rows)
    return pyo.Constraint(range(len(held)), rule=lambda _, row: held[row])


def stage_seconds(
    candidates: CandidateStages, scaling: Scaling, p: int
) -> Float[np.ndarray, " S"]:
    """Returns the seconds of each stage in all rounds of a phase, in units."""
    return all_rounds(candidates.seconds, candidates.instance, scaling.time_s)[p]


def hop_seconds(
    candidates: CandidateStages, scaling: Scaling, p: int
) -> Float[np.ndarray, "O T T"]:
    """Returns the seconds of each hop in all rounds of a phase, in units."""
    return all_rounds(candidates.types.hop_s, candidates.instance, scaling.time_s)[p]


def by_boundary(
    boundary: Integers, types: Integers
) -> dict[tuple[int, int], list[int]]:
    """Returns the stages at each boundary, by the type of their devices."""
    stages: dict[tuple[int, int], list[int]] = defaultdict(list)
    for s, key in enumerate(zip(boundary.tolist(), types.tolist(), strict=True)):
        stages[key].append(s)
    return stages


def sum_of_stages(model: Model, stages: Iterable[int]) -> Model:
    """Returns how many of some stages are in the plan."""
    return pyo.quicksum(model.stage[int(s)] for s in stages)


def weighted_stages(
    model: Model, weights: Float[np.ndarray, " S"], stages: Iterable[int]
) -> Model:
    """Returns the sum of weights over those of some stages that are in the plan."""
    terms = [(float(weights[s]), model.stage[int(s)]) for s in stages if weights[s]]
    return pyo.quicksum((w * stage for w, stage in terms)) if terms else 0.0


def weighted_hops(model: Model, weights: Float[np.ndarray, "O T T"]) -> Model:
    """Returns the sum of weights over the hops of the plan."""
    return sum(
        float(weights[o, t, k]) * model.hop[i, t, k, o]
        for i, t, k, o in model.hop
        if weights[o, t, k] > 0
    )


def one_passage(
    model: Model, candidates: CandidateStages, scaling: Scaling, p: int
) -> Model:
    """Returns the time of one micro-batch over all stages and hops, in all rounds."""
    seconds = stage_seconds(candidates, scaling, p)
    stages = weighted_stages(model, seconds, range(len(seconds)))
    return stages + weighted_hops(model, hop_seconds(candidates, scaling, p))


def unshared_time(
    model: Model, candidates: CandidateStages, scaling: Scaling, p: int
) -> Model:
    """Returns the time of a phase if no machine is shared."""
    instance = candidates.instance
    rounds, m = instance.num_rounds[p], instance.num_micro_batches[p]
    once = (1.0 / rounds) * one_passage(model, candidates, scaling, p)
    first_round = once + (m - 1) / rounds * model.slowest[PHASES[p]]
    if p == PREFILL:
        return first_round
    return first_round + (rounds - 1) / rounds * model.round


def total_omega(model: Model, candidates: CandidateStages, scale: float) -> Model:
    """Returns Σω of stages and hops, times a scale."""
    loss = scale * candidates.instance.wire_omega
    num_types = candidates.types.num_types
    by_hop = np.broadcast_to(loss[:, None, None], (len(loss), num_types, num_types))
    stages = weighted_stages(
        model, scale * candidates.omega, range(len(candidates.stages))
    )
    return stages + weighted_hops(model, by_hop)
