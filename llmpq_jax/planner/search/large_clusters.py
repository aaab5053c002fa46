"""Clusters with many devices for the dynamic program: ever more serve, all are bounded.

The states of used devices multiply with every group. Where they are too many, plans are
sought on a subset of the devices: all of the fastest groups and as many of slower ones as
there is room for. While a gap is open and time is left, the room grows, up to all devices
or what memory allows. Until then the bound is a relaxation of every subproblem, which
covers all devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from llmpq_jax.planner.instance.candidate import Candidate
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.device_symmetry import DeviceTypes, device_types
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.search.bounds import objective_bound, omega_bound
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.relaxation import relax
from llmpq_jax.planner.search.search_result import (
    IncumbentStore,
    Known,
    SearchResult,
)
from llmpq_jax.planner.search.stage_table import stage_table

# States of used devices with which one shortest path takes about a second.
MAX_STATES = 4000
# How many times as many states there are each time the search has ended early.
_GROWTH = 5
# Bytes of one table over states, of which the dynamic program has a handful.
_MAX_TABLE_BYTES = 1 << 28
# Share of the time left that is for a subset; the rest is for larger ones and the bound.
_SUBSET_TIME = 0.8
# Searches subproblems, from plans that are known, until a time on the monotonic clock.
SearchUntil = Callable[[Sequence[Instance], Known, float], SearchResult]
# Devices and meshes that are left, and the devices left of each device group.
_Subset = tuple[tuple[int, ...], tuple[int, ...]]


def num_states(instances: Sequence[Instance]) -> float:
    """Returns the states of used devices of the subproblem that has most."""
    sizes = (device_types(instance).group_sizes for instance in instances)
    return max(float(np.prod(own.astype(float) + 1.0)) for own in sizes)


def search_growing(
    instances: Sequence[Instance],
    search_until: SearchUntil,
    known: Known,
    store: IncumbentStore,
) -> SearchResult:
    """Searches ever larger subsets of the devices, and bounds plans on all of them.

    `store` keeps the best plan, and says when the search is over.
    """
    begin = time.monotonic()
    for instance, candidate in known:
        store.consider(instance, candidate)
    num_all, max_states = num_states(instances), float(MAX_STATES)
    largest = max(max_states, _MAX_TABLE_BYTES / _state_bytes(instances[0]))
    bound = _bound(instances, store)
    while True:
        is_whole = num_all <= max_states
        try:
            if is_whole:
                result = search_until(instances, store.plans, store.deadline)
                bound = max(bound, result.bound)
            else:
                until = store.deadline - (1 - _SUBSET_TIME) * store.left_s
                result = _search_subset(
                    instances, search_until, store.plans, max_states, until
                )
        except KeyboardInterrupt:
            if store.incumbent is None:
                raise
            is_complete, was_interrupted = False, True
            break
        if result.incumbent is not None:
            store.consider(result.incumbent.instance, result.incumbent.candidate)
        is_closed = store.incumbent is not None and bound >= store.cutoff
        was_interrupted = result.was_interrupted
        is_complete = is_closed or bound == np.inf or (is_whole and result.is_complete)
        if is_complete or is_whole or was_interrupted or store.left_s <= 0:
            break
        if max_states >= largest:
            break
        max_states = min(max_states * _GROWTH, largest)
    best = store.incumbent
    return SearchResult(
        incumbent=best,
        bound=min(bound, best.value) if best is not None else bound,
        num_subproblems=len(instances),
        is_complete=is_complete,
        was_interrupted=was_interrupted,
        seconds=time.monotonic() - begin,
    )


def _state_bytes(instance: Instance) -> int:
    """Returns the bytes of one state in a table of the dynamic program."""
    return 8 * len(device_types(instance).members) * (instance.num_layers + 1)


def _bound(instances: Sequence[Instance], store: IncumbentStore) -> float:
    """Bounds plans on all devices: by relaxations, in closed form once time is over."""
    if store.goal == "omega":
        return min(map(omega_bound, instances))
    bounds = []
    for i in instances:
        if store.left_s <= 0:
            bounds.append(objective_bound(i))
            continue
        # The relaxation reads the types alone, so the shortest tables will do.
        table = stage_table(i, layer_counts(i.allowed_omega, max_length=1))
        bounds.append(relax(table)[0])
    return min(bounds)


def _search_subset(
    instances: Sequence[Instance],
    search_until: SearchUntil,
    known: Known,
    max_states: float,
    until: float,
) -> SearchResult:
    """Searches plans on a subset of the devices; the bound covers those alone."""
    result = None
    for kept, group_sizes in _subsets(_most_types(instances), max_states):
        few = [_restricted(instance, kept, group_sizes) for instance in instances]
        whole_of = {id(part): i for i, part in zip(instances, few, strict=True)}
        start: list[tuple[Instance, Candidate]] = []
        for instance, candidate in known:
            if set(candidate.devices) <= set(kept):
                part = _restricted(instance, kept, group_sizes)
                whole_of[id(part)] = instance
                own = tuple(map(kept.index, candidate.devices))
                start.append((part, replace(candidate, devices=own)))
        result = search_until(few, start, until)
        best = result.incumbent
        if best is not None:
            devices = tuple(kept[j] for j in best.candidate.devices)
            whole = replace(
                best,
                instance=whole_of[id(best.instance)],
                candidate=replace(best.candidate, devices=devices),
            )
            return replace(result, incumbent=whole)
        if result.was_interrupted:
            break
    assert result is not None, "there is always a subset"
    return result


def _most_types(instances: Sequence[Instance]) -> Instance:
    return max(instances, key=lambda instance: device_types(instance).num_types)


def _subsets(instance: Instance, max_states: float) -> Iterator[_Subset]:
    """Yields devices to plan for: the fastest groups, then an even share of all."""
    types = device_types(instance)
    layer_s = instance.devices.layer_s[:, types.first].min(axis=2)
    m, rounds = instance.num_micro_batches, instance.num_rounds
    # Infinity, where nothing is supported, must not be multiplied by no step.
    decode_s = np.where(np.isfinite(layer_s[DECODE]), layer_s[DECODE], 0.0)
    work = types.widths * (
        m[PREFILL] * layer_s[PREFILL] + rounds[DECODE] * m[DECODE] * decode_s
    )
    best = np.full(types.num_groups, np.inf)
    np.minimum.at(best, types.group_of, work)
    order = sorted(
        range(types.num_groups), key=lambda q: (not types.must_use[q], best[q])
    )
    sizes = types.group_sizes
    fastest, room = np.zeros(types.num_groups, dtype=np.int64), max_states
    for q in order:
        must = sizes[q] if types.must_use[q] else 0
        fastest[q] = max(must, min(sizes[q], int(room) - 1))
        room /= fastest[q] + 1
    even = int(max_states ** (1.0 / types.num_groups)) - 1
    shares = np.where(types.must_use, sizes, np.minimum(sizes, even))
    yield _subset(instance, types, fastest)
    if shares.any():
        yield _subset(instance, types, shares)


def _subset(instance: Instance, types: DeviceTypes, group_sizes: Integers) -> _Subset:
    """Takes this many devices of each of the types' groups."""
    kept: list[int] = []
    group_of = {}
    for members, width, q in zip(
        types.members, types.widths, types.group_of, strict=True
    ):
        kept += members[: int(group_sizes[q] // width)]
        group_of[members[0]] = q
    return tuple(sorted(kept)), tuple(
        next(int(group_sizes[group_of[j]]) for j in group.members if j in group_of)
        for group in instance.device_groups
    )


def _restricted(
    instance: Instance, kept: tuple[int, ...], group_sizes: tuple[int, ...]
) -> Instance:
    """Returns the same numbers with a subset of the devices."""
    few = instance.with_devices(kept)
    device_groups = tuple(
        replace(group, num_devices=size)
        for group, size in zip(few.device_groups, group_sizes, strict=True)
        if group.members
    )
    hosts = tuple(host for host in few.hosts if host.members)
    return replace(few, hosts=hosts, device_groups=device_groups)
