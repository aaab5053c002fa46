"""More devices than the dynamic programme has room for: some serve, all bound.

The states of used devices multiply with every type. Where they are too many, plans are
sought on part of the devices, the fastest types whole and of slower ones as many as there
is room for; the bound is the relaxation of every case to counts, which knows all devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.planner.instance.device_symmetry import DeviceTypes, device_types
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.relaxation import relax
from llmpq_jax.planner.search.search_result import SearchResult
from llmpq_jax.planner.search.stage_table import stage_table

# States of used devices, beyond which one shortest path takes more than a second.
MAX_STATES = 4000


def has_too_many_states(instance: Instance) -> bool:
    """Whether only part of an instance's devices can be searched."""
    sizes = device_types(instance).sizes
    return float(np.prod(sizes.astype(float) + 1.0)) > MAX_STATES


def search_subset(
    instances: Sequence[Instance],
    search_few: Callable[[list[Instance]], SearchResult],
) -> SearchResult:
    """Searches plans on part of the devices, and bounds plans on all of them.

    Args:
        instances: The cases.
        search_few: Searches cases of few devices.
    """
    result, kept, few = None, (), []
    for part in _parts(instances[0]):
        kept = part.kept
        few = [_restricted(instance, part) for instance in instances]
        result = search_few(few)
        if result.found is not None:
            break
    assert result is not None, "there is always a part"
    bound = min(_relaxed(instance) for instance in instances)
    found = result.found
    if found is not None:
        subproblem = next(
            whole
            for whole, part in zip(instances, few, strict=True)
            if part is found.instance
        )
        devices = tuple(kept[j] for j in found.candidate.devices)
        candidate = replace(found.candidate, devices=devices)
        found = replace(found, instance=subproblem, candidate=candidate)
        bound = min(bound, found.value)
    return replace(result, found=found, bound=bound)


def _relaxed(instance: Instance) -> float:
    # The relaxation asks for types alone, so the shortest tables will do.
    counts = layer_counts(instance.allowed_omega, max_length=1)
    return relax(stage_table(instance, counts))[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Some of the devices.

    Attributes:
        kept: Of axis J; meshes among them that can be made of those left.
        in_pools: Devices left of each of an instance's pools.
    """

    kept: tuple[int, ...]
    in_pools: tuple[int, ...]


def _parts(instance: Instance) -> Iterator[_Part]:
    """Devices to plan for: those of the fastest pools, and else an even share of all."""
    types = device_types(instance)
    steps = (instance.new_tokens - 1) * instance.num_decode
    prefill_s = instance.layer_prefill_s.min(axis=1)[types.first]
    decode_s = instance.layer_decode_s.min(axis=1)[types.first]
    # Infinity, where nothing is supported, must not be multiplied by no step.
    decode_s = np.where(np.isfinite(decode_s), decode_s, 0.0)
    work = types.widths * (instance.num_prefill * prefill_s + steps * decode_s)
    best = np.full(types.num_groups, np.inf)
    np.minimum.at(best, types.device_group, work)
    order = sorted(
        range(types.num_groups), key=lambda q: (not types.must_use[q], best[q])
    )
    fastest, room = np.zeros(types.num_groups, dtype=np.int64), float(MAX_STATES)
    for device_group in order:
        must = types.sizes[device_group] if types.must_use[device_group] else 0
        fastest[device_group] = max(must, min(types.sizes[device_group], int(room) - 1))
        room /= fastest[device_group] + 1
    even = int(MAX_STATES ** (1.0 / types.num_groups)) - 1
    shares = np.where(types.must_use, types.sizes, np.minimum(types.sizes, even))
    yield _part(instance, types, fastest)
    if shares.any():
        yield _part(instance, types, shares)


def _part(instance: Instance, types: DeviceTypes, sizes: Integers) -> _Part:
    """Takes so many devices of each of the types' pools."""
    kept: list[int] = []
    pool_of = {}
    for group, width, device_group in zip(
        types.members, types.widths, types.device_group, strict=True
    ):
        kept += group[: int(sizes[device_group] // width)]
        pool_of[group[0]] = device_group
    return _Part(
        kept=tuple(sorted(kept)),
        in_pools=tuple(
            next(int(sizes[pool_of[j]]) for j in device_group.members if j in pool_of)
            for device_group in instance.device_groups
        ),
    )


def _restricted(instance: Instance, part: _Part) -> Instance:
    """The same numbers with some of the devices."""
    few = instance.with_devices(part.kept)
    device_groups = tuple(
        replace(device_group, num_devices=num)
        for device_group, num in zip(few.device_groups, part.in_pools, strict=True)
        if device_group.members
    )
    hosts = tuple(host for host in few.hosts if host.members)
    return replace(few, hosts=hosts, device_groups=device_groups)
