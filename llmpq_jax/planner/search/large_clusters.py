"""Clusters with too many devices for the dynamic program: some serve, all are bounded.

The states of used devices multiply with every group. Where they are too many, plans are
sought on a subset of the devices: all of the fastest groups and as many of slower ones as
there is room for. The bound is the relaxation of every subproblem to layer counts, which
covers all devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.device_symmetry import DeviceTypes, device_types
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.relaxation import relax
from llmpq_jax.planner.search.search_result import SearchResult
from llmpq_jax.planner.search.stage_table import stage_table

# States of used devices, beyond which one shortest path takes more than a second.
MAX_STATES = 4000
# Devices and meshes that are left, and the devices left of each device group.
_Subset = tuple[tuple[int, ...], tuple[int, ...]]


def has_too_many_states(instance: Instance) -> bool:
    """Whether only a subset of an instance's devices can be searched."""
    sizes = device_types(instance).group_sizes
    return float(np.prod(sizes.astype(float) + 1.0)) > MAX_STATES


def search_subset(
    instances: Sequence[Instance],
    search_few: Callable[[list[Instance]], SearchResult],
) -> SearchResult:
    """Searches plans on a subset of the devices, and bounds plans on all of them."""
    result, kept, few = None, (), []
    for kept, group_sizes in _subsets(instances[0]):
        few = [_restricted(instance, kept, group_sizes) for instance in instances]
        result = search_few(few)
        if result.incumbent is not None:
            break
    assert result is not None, "there is always a subset"
    # The relaxation reads the types alone, so the shortest tables will do.
    bound = min(
        relax(stage_table(i, layer_counts(i.allowed_omega, max_length=1)))[0]
        for i in instances
    )
    best = result.incumbent
    if best is not None:
        subproblem = next(
            whole
            for whole, part in zip(instances, few, strict=True)
            if part is best.instance
        )
        devices = tuple(kept[j] for j in best.candidate.devices)
        candidate = replace(best.candidate, devices=devices)
        best = replace(best, instance=subproblem, candidate=candidate)
        bound = min(bound, best.value)
    return replace(result, incumbent=best, bound=bound)


def _subsets(instance: Instance) -> Iterator[_Subset]:
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
    fastest, room = np.zeros(types.num_groups, dtype=np.int64), float(MAX_STATES)
    for q in order:
        must = sizes[q] if types.must_use[q] else 0
        fastest[q] = max(must, min(sizes[q], int(room) - 1))
        room /= fastest[q] + 1
    even = int(MAX_STATES ** (1.0 / types.num_groups)) - 1
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
