"""Candidate stages: those that a better plan may still have, as columns of a model.

Of all stages (type of device, first layer, counts, role) only those are kept through
which some pipeline is not proven worse than the incumbent; the bounds are exact shortest
paths, see `shortest_path`. What is left is small enough for HiGHS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.device_symmetry import DeviceTypes
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.instance.stage_bytes import ROLES, Role
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.shortest_path import NodeBounds, ShortestPath
from llmpq_jax.planner.search.stage_costs import TypedStage
from llmpq_jax.planner.search.stage_table import StageTable
from llmpq_jax.planner.search.time_limit import CheckTime, unlimited

# Dominated stages are looked for if there are at most this many times too many stages.
_MAX_COMPARED = 8


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CandidateStages:
    """The numbers of an arc-flow model. Axis S: stages that may be chosen.

    Attributes:
        instance: Numbers of the subproblem, with its devices and schedule.
        types: Types of its devices.
        node_bounds: Bounds on the slowest stages of the model's plans.
        stages: The stages, [S].
        type: Type of each stage's device, [S].
        first: First layer of each stage, [S].
        end: End of each stage's layers, exclusive, [S].
        seconds: Seconds of each stage, with embedding and head, [P, S].
        omega: Least loss of each stage, [S].
    """

    instance: Instance
    types: DeviceTypes
    node_bounds: NodeBounds
    stages: tuple[TypedStage, ...]
    type: Int[np.ndarray, " S"]
    first: Int[np.ndarray, " S"]
    end: Int[np.ndarray, " S"]
    seconds: Float[np.ndarray, "P S"]
    omega: Float[np.ndarray, " S"]

    @property
    def may_be_whole(self) -> bool:
        """Whether some stage is the first, and each group that must be used has one."""
        has_must = all(
            (self.types.group_of[self.type] == group).any()
            for group in np.flatnonzero(self.types.must_use)
        )
        return has_must and bool((self.first == 0).any())


def candidates_below(
    table: StageTable,
    finder: ShortestPath,
    weights: Sequence[LagrangianWeights],
    limit: float,
    *,
    max_stages: int | None = None,
    check_time: CheckTime = unlimited,
) -> CandidateStages | None:
    """Keeps the stages that no given weights prove to cost more than a limit.

    Returns None if more than `max_stages` are left. `check_time` is called meanwhile.
    """
    kept = None
    for own in weights:
        keys = _keys(table, finder.columns_below(own, limit))
        kept = keys if kept is None else np.intersect1d(kept, keys, assume_unique=True)
    assert kept is not None, "at least one set of weights"
    if max_stages is not None and len(kept) > _MAX_COMPARED * max_stages:
        return None
    counts = table.counts
    shape = (len(ROLES), table.types.num_types, counts.num_layers, len(counts.counts))
    columns = np.unravel_index(kept, shape)
    kept = kept[_is_undominated(table, *columns, check_time=check_time)]
    if max_stages is not None and len(kept) > max_stages:
        return None
    role, types, first, index = np.unravel_index(kept, shape)
    fixed_s = np.stack([table.fixed_s[role] for role in ROLES], axis=1)
    stages = tuple(
        TypedStage(type=t, first=i, index=c, role=ROLES[r])
        for r, t, i, c in zip(
            *(x.tolist() for x in (role, types, first, index)), strict=True
        )
    )
    return CandidateStages(
        instance=table.instance,
        types=table.types,
        node_bounds=finder.node_bounds,
        stages=stages,
        type=types,
        first=first,
        end=first + counts.lengths[index],
        seconds=table.layers_s[:, types, index] + fixed_s[:, role, types],
        omega=np.array([counts.loss(s.first, s.index) for s in stages]),
    )


def _is_undominated(
    table: StageTable,
    role: Integers,
    types: Integers,
    first: Integers,
    index: Integers,
    *,
    check_time: CheckTime,
) -> Bool[np.ndarray, " S"]:
    """Whether no stage that could replace it is at least as good in all respects.

    Of stages of one role, type, first layer and length only seconds of both phases and ω
    enter the model. Of equal ones the first is kept.
    """
    counts = table.counts
    length = counts.lengths[index]
    losses = [
        counts.loss(i, c) for i, c in zip(first.tolist(), index.tolist(), strict=True)
    ]
    values = np.stack([*table.layers_s[:, types, index], losses], axis=1)
    size = counts.num_layers + 1
    group = ((role * table.types.num_types + types) * size + first) * size + length
    # Sorted by prefill, decode and ω, only an earlier stage can dominate.
    order = np.lexsort((*values.T[::-1], group))
    keep = np.zeros(len(group), dtype=bool)
    edges = np.flatnonzero(np.diff(group[order], prepend=-1, append=-1))
    for begin, end in pairwise(edges.tolist()):
        check_time()
        best = np.zeros((0, values.shape[1]))
        for stage in order[begin:end]:
            if not (best <= values[stage]).all(axis=1).any():
                keep[stage] = True
                best = np.concatenate([best, values[stage][None]])
    return keep


def _keys(table: StageTable, found: dict[Role, list[Floats]]) -> Integers:
    """Returns a number for each stage, different from those of all others."""
    counts = table.counts
    keys = []
    for r, role in enumerate(ROLES):
        for t, columns in enumerate(found[role]):
            first, index = columns[:, :2].astype(np.int64).T
            stage = (r * table.types.num_types + t) * counts.num_layers + first
            keys.append(stage * len(counts.counts) + index)
    return np.concatenate(keys)
