"""Stages that may still be part of a better plan, as the columns of a model.

Of all stages (type of device, first layer, counts, role) only those are kept through
which a pipeline is not proven worse than the best plan; the bounds are exact shortest
paths, see `paths`. What is left is small enough for HiGHS to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.device_symmetry import DeviceTypes
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.search.lagrangian import LagrangianWeights
from llmpq_jax.planner.search.shortest_path import NodeBounds, ShortestPath
from llmpq_jax.planner.search.stage_costs import PathStage
from llmpq_jax.planner.search.stage_table import ROLES, Role, StageTable

# Stages are compared with each other where there are at most so many times too many.
_LOOKED_AT = 8


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class CandidateStages:
    """The numbers of an order-free model. Axis S: stages that may be chosen.

    Attributes:
        instance: Whose devices and schedule.
        types: Of its devices.
        node_bounds: Within which the model's plans lie.
        stages: [S] as the path finder knows them.
        type: [S] of device.
        first: [S] first layer.
        end: [S] up to but without.
        prefill_s: [S] with the ends it holds.
        decode_s: [S] likewise, of one step.
        omega: [S], the least of such a stage.
    """

    instance: Instance
    types: DeviceTypes
    node_bounds: NodeBounds
    stages: tuple[PathStage, ...]
    type: Integers
    first: Integers
    end: Integers
    prefill_s: Floats
    decode_s: Floats
    omega: Floats

    @property
    def may_be_whole(self) -> bool:
        """Whether something begins the model, and each pool that must be used is there."""
        has_must = all(
            (self.types.device_group[self.type] == device_group).any()
            for device_group in np.flatnonzero(self.types.must_use)
        )
        return has_must and bool((self.first == 0).any())


def candidates_below(
    tables: StageTable,
    finder: ShortestPath,
    weights: Sequence[LagrangianWeights],
    most: float,
    *,
    max_stages: int | None = None,
) -> CandidateStages | None:
    """Keeps the stages that no given prices prove to cost more than `most`.

    Returns nothing where more than `max_stages` are left.
    """
    kept = None
    for price in weights:
        keys = _keys(tables, finder.columns_below(price, most))
        kept = keys if kept is None else np.intersect1d(kept, keys, assume_unique=True)
    assert kept is not None, "at least one set of prices"
    if max_stages is not None and len(kept) > _LOOKED_AT * max_stages:
        return None
    counts = tables.counts
    shape = (len(ROLES), tables.types.num_types, counts.num_layers, len(counts.counts))
    kept = kept[_is_undominated(tables, *np.unravel_index(kept, shape))]
    if max_stages is not None and len(kept) > max_stages:
        return None
    role, types, first, index = np.unravel_index(kept, shape)
    ends_prefill = np.stack([tables.end_prefill_s[role] for role in ROLES])
    ends_decode = np.stack([tables.end_decode_s[role] for role in ROLES])
    stages = tuple(
        PathStage(type=t, first=i, index=c, role=ROLES[r])
        for r, t, i, c in zip(
            *(x.tolist() for x in (role, types, first, index)), strict=True
        )
    )
    return CandidateStages(
        instance=tables.instance,
        types=tables.types,
        node_bounds=finder.node_bounds,
        stages=stages,
        type=types,
        first=first,
        end=first + counts.lengths[index],
        prefill_s=tables.prefill_s[types, index] + ends_prefill[role, types],
        decode_s=tables.decode_s[types, index] + ends_decode[role, types],
        omega=np.array([counts.loss(s.first, s.index) for s in stages]),
    )


def _is_undominated(
    tables: StageTable,
    role: Integers,
    types: Integers,
    first: Integers,
    index: Integers,
) -> npt.NDArray[np.bool_]:
    """Whether no other stage of the same place is at least as good in all respects.

    Of stages of one role, type, first layer and length only seconds of both phases and ω
    enter the model. Of equal ones the first is kept.
    """
    counts = tables.counts
    length = counts.lengths[index]
    values = np.stack(
        [
            tables.prefill_s[types, index],
            tables.decode_s[types, index],
            [
                counts.loss(i, c)
                for i, c in zip(first.tolist(), index.tolist(), strict=True)
            ],
        ],
        axis=1,
    )
    size = counts.num_layers + 1
    place = ((role * tables.types.num_types + types) * size + first) * size + length
    order = np.lexsort((*values.T[::-1], place))
    keep = np.zeros(len(place), dtype=bool)
    edges = np.flatnonzero(np.diff(place[order], prepend=-1, append=-1))
    for begin, end in pairwise(edges.tolist()):
        group = order[begin:end]
        own = values[group]
        # Sorted by prefill, decode and ω, only an earlier one can dominate.
        best = np.zeros((0, 3))
        for place_in_group, row in zip(group, own, strict=True):
            if not (best <= row).all(axis=1).any():
                keep[place_in_group] = True
                best = np.concatenate([best, row[None]])
    return keep


def _keys(tables: StageTable, found: dict[Role, list[Floats]]) -> Integers:
    """Numbers that name stages, each another one."""
    counts = tables.counts
    num_types = tables.types.num_types
    keys = []
    for r, role in enumerate(ROLES):
        for t, rows in enumerate(found[role]):
            place = (r * num_types + t) * counts.num_layers + rows[:, 0].astype(
                np.int64
            )
            keys.append(place * len(counts.counts) + rows[:, 1].astype(np.int64))
    return np.concatenate(keys)
