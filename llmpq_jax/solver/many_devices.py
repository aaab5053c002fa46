"""More devices than the dynamic programme has room for: some serve, all bound.

The states of used devices multiply with every type. Where they are too many, plans are
sought on part of the devices, the fastest types whole and of slower ones as many as there
is room for; the bound is the relaxation of every case to counts, which knows all devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from llmpq_jax.solver.count_tables import count_tables
from llmpq_jax.solver.device_types import device_types
from llmpq_jax.solver.instance import Instance
from llmpq_jax.solver.relaxation import relax
from llmpq_jax.solver.search_result import SearchResult
from llmpq_jax.solver.type_tables import type_tables

# States of used devices, beyond which one shortest path takes more than a second.
MOST_STATES = 4000


def has_too_many_states(instance: Instance) -> bool:
    """Whether only part of an instance's devices can be searched."""
    sizes = device_types(instance).sizes
    return float(np.prod(sizes.astype(float) + 1.0)) > MOST_STATES


def search_part(
    instances: Sequence[Instance],
    search_few: Callable[[list[Instance]], SearchResult],
) -> SearchResult:
    """Searches plans on part of the devices, and bounds plans on all of them.

    Args:
        instances: The cases.
        search_few: Searches cases of few devices.
    """
    result, kept, few = None, [], []
    for kept in _parts(instances[0]):
        few = [_restricted(instance, kept) for instance in instances]
        result = search_few(few)
        if result.found is not None:
            break
    assert result is not None, "there is always a part"
    bound = min(_relaxed(instance) for instance in instances)
    found = result.found
    if found is not None:
        case = next(
            whole
            for whole, part in zip(instances, few, strict=True)
            if part is found.instance
        )
        devices = tuple(kept[j] for j in found.placement.devices)
        placement = replace(found.placement, devices=devices)
        found = replace(found, instance=case, placement=placement)
        bound = min(bound, found.value)
    return replace(result, found=found, bound=bound)


def _relaxed(instance: Instance) -> float:
    # The relaxation asks for types alone, so the shortest tables will do.
    counts = count_tables(instance.omega, max_length=1)
    return relax(type_tables(instance, counts))[0]


def _parts(instance: Instance) -> list[list[int]]:
    """Devices to plan for: the fastest first, and else an even share of all types."""
    types = device_types(instance)
    steps = (instance.new_tokens - 1) * instance.num_decode
    prefill_s = instance.layer_prefill_s.min(axis=1)[types.first]
    decode_s = instance.layer_decode_s.min(axis=1)[types.first]
    # Infinity, where nothing is supported, must not be multiplied by no step.
    decode_s = np.where(np.isfinite(decode_s), decode_s, 0.0)
    work = instance.num_prefill * prefill_s + steps * decode_s
    order = sorted(
        range(types.num_types), key=lambda t: (not types.must_use[t], work[t])
    )
    fastest, room = np.zeros(types.num_types, dtype=np.int64), float(MOST_STATES)
    for t in order:
        must = types.sizes[t] if types.must_use[t] else 0
        fastest[t] = max(must, min(types.sizes[t], int(room) - 1))
        room /= fastest[t] + 1
    even = int(MOST_STATES ** (1.0 / types.num_types)) - 1
    shares = np.where(types.must_use, types.sizes, np.minimum(types.sizes, even))
    return [
        sorted(
            j
            for group, size in zip(types.members, sizes, strict=True)
            for j in group[: int(size)]
        )
        for sizes in (fastest, shares)
    ]


def _restricted(instance: Instance, kept: list[int]) -> Instance:
    """The same numbers with some of the devices."""
    few = instance.in_order(kept)
    return replace(few, hosts=tuple(host for host in few.hosts if host.members))
