"""Devices that differ in free memory alone: searched as one type first, then apart.

Cluster files hold free memory, which differs by a few bytes between equal devices. Where
some stage fits one of them and not another they are types of their own, and the search
goes through all of their orders. So they are first searched as one type, whose devices
all have the most memory: a relaxation, whose bound holds. Its plans are considered on the
real devices, the largest stages where there is most memory. Only if a gap is left open
are they searched as the types that they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.device_symmetry import device_types
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.large_clusters import SearchUntil
from llmpq_jax.planner.search.search_result import (
    IncumbentStore,
    Known,
    SearchResult,
)

# Share of the time for the search of merged devices.
_MERGED_TIME = 0.8


def has_nearly_equal_devices(instance: Instance) -> bool:
    """Whether devices differ in memory alone, and in which stages fit it."""
    merged = replace(instance, merges_memory=True)
    return device_types(merged).num_types < device_types(instance).num_types


def search_merged(
    instances: Sequence[Instance],
    search_until: SearchUntil,
    known: Known,
    store: IncumbentStore,
) -> SearchResult:
    """Searches with devices merged by memory, and apart if that leaves a gap open.

    `store` keeps the best plan, and says when the search is over.
    """
    begin = time.monotonic()
    for instance, candidate in known:
        store.consider(instance, candidate)
    until = store.deadline - (1 - _MERGED_TIME) * store.left_s
    first = _merged(instances, search_until, known, until)
    if first.incumbent is not None:
        store.consider(first.incumbent.instance, first.incumbent.candidate)
    best, bound, last = store.incumbent, first.bound, first
    is_closed = bound == float("inf") or (best is not None and bound >= store.cutoff)
    if not is_closed and not first.was_interrupted and store.left_s > 0:
        last = search_until(instances, store.plans, store.deadline)
        if last.incumbent is not None:
            store.consider(last.incumbent.instance, last.incumbent.candidate)
        best, bound = store.incumbent, max(bound, last.bound)
        is_closed = last.is_complete
    return SearchResult(
        incumbent=best,
        bound=bound if best is None else min(bound, best.value),
        num_subproblems=len(instances),
        is_complete=is_closed,
        was_interrupted=last.was_interrupted,
        seconds=time.monotonic() - begin,
    )


def _merged(
    instances: Sequence[Instance],
    search_until: SearchUntil,
    known: Known,
    until: float,
) -> SearchResult:
    """Searches with devices merged; the plan is one of the instances as they are."""
    merged = [replace(instance, merges_memory=True) for instance in instances]
    apart = {id(one): other for one, other in zip(merged, instances, strict=True)}
    start: list[tuple[Instance, Candidate]] = []
    for instance, candidate in known:
        start.append((replace(instance, merges_memory=True), candidate))
        apart[id(start[-1][0])] = instance
    result = search_until(merged, start, until)
    if result.incumbent is None:
        return result
    own = apart[id(result.incumbent.instance)]
    return replace(result, incumbent=replace(result.incumbent, instance=own))
