"""The referee: tries every plan of tiny subproblems and keeps the best.

Every order of every subset of devices, every cut, every choice of bits and precisions of
hops, every subproblem. It shares no code with the search but the instance's numbers and
the schedule, which a simulation referees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations, product

from llmpq_jax.costmodel.pipeline_schedule import Host, pipeline_s
from llmpq_jax.planner.instance.instance import Instance


def best_by_enumeration(instances: Sequence[Instance]) -> float | None:
    """Returns the least objective over all plans that fit, or None without one."""
    objectives = [
        objective for instance in instances for objective, _ in feasible_plans(instance)
    ]
    return min(objectives, default=None)


def min_omega_by_enumeration(instances: Sequence[Instance]) -> float | None:
    """Returns the least Σω over all plans that fit, or None without one."""
    omegas = [omega for instance in instances for _, omega in feasible_plans(instance)]
    return min(omegas, default=None)


def feasible_plans(instance: Instance) -> Iterator[tuple[float, float]]:
    """Yields the objective and Σω of every plan that fits."""
    num_layers = instance.num_layers
    for num_used in range(1, min(instance.num_devices, num_layers) + 1):
        for devices in permutations(range(instance.num_devices), num_used):
            if not _are_there(instance, devices):
                continue
            for inner in combinations(range(1, num_layers), num_used - 1):
                cuts = list(pairwise((0, *inner, num_layers)))
                num_bits, num_wires = len(instance.bits), len(instance.wire_bits)
                for bits in product(range(num_bits), repeat=num_layers):
                    for wires in product(range(num_wires), repeat=num_used - 1):
                        costs = _costs(instance, devices, cuts, bits, wires)
                        if costs is not None:
                            yield costs


def _are_there(instance: Instance, devices: tuple[int, ...]) -> bool:
    """Whether groups have devices for all of these, and no pinned device is idle."""
    width, must_use = instance.devices.width, instance.devices.must_use
    grouped: set[int] = set()
    for group in instance.device_groups:
        grouped |= set(group.members)
        taken = 0
        for j in group.members:
            if j in devices:
                taken += int(width[j])
        if taken > group.num_devices:
            return False
        if taken < group.num_devices and must_use[list(group.members)].any():
            return False
    return all(
        j in devices
        for j in range(instance.num_devices)
        if must_use[j] and j not in grouped
    )


def _costs(
    instance: Instance,
    devices: tuple[int, ...],
    cuts: list[tuple[int, int]],
    bits: tuple[int, ...],
    wires: tuple[int, ...],
) -> tuple[float, float] | None:
    omega = instance.fixed_omega + sum(
        float(instance.omega[layer, b]) for layer, b in enumerate(bits)
    )
    for wire in wires:
        omega += float(instance.wire_omega[wire])
    budget = instance.omega_budget
    if budget is not None and omega > budget * (1 + 1e-9):
        return None
    fits = [
        stage_fits(instance, j, bits[first:end], first)
        for j, (first, end) in zip(devices, cuts, strict=True)
    ]
    if not all(fits):
        return None
    stages_s = [
        [
            _stage_s(instance, p, j, bits[first:end], first)
            for j, (first, end) in zip(devices, cuts, strict=True)
        ]
        for p in (0, 1)
    ]
    if float("inf") in stages_s[0] + stages_s[1]:
        return None
    hops = [(o, j, k) for o, (j, k) in zip(wires, pairwise(devices), strict=True)]
    seconds = pipeline_s(
        stages_s=stages_s,
        hops_s=[[float(hop_s[hop]) for hop in hops] for hop_s in instance.hop_s],
        num_micro_batches=instance.num_micro_batches,
        new_tokens=instance.new_tokens,
        hosts=[
            Host(
                members=tuple(
                    s
                    for member in host.members
                    for s, j in enumerate(devices)
                    if j == member
                ),
                prefill_serial=host.prefill_serial,
                decode_serial=host.decode_serial,
            )
            for host in instance.hosts
        ],
    )
    return seconds.latency_s + instance.theta * omega, omega


def stage_fits(instance: Instance, j: int, bits: tuple[int, ...], first: int) -> bool:
    """Whether layers of these bits, from a first one on, may be on a device and fit it."""
    d = instance.devices
    size, workspaces = int(instance.buffer_bytes), []
    for layer, b in enumerate(bits, start=first):
        if not (d.may_hold[layer, j] and instance.may_have[layer, b]):
            return False
        size += int(d.layer_bytes[j, b]) + int(d.kv_bytes[j])
        workspaces.append(int(d.workspace_bytes[j, b]))
    if first == 0:
        size += int(d.embedding_bytes[j])
        workspaces.append(int(d.embedding_workspace_bytes[j]))
    else:
        size += int(instance.received_bytes)
    if first + len(bits) == instance.num_layers:
        size += int(d.head_bytes[j])
        workspaces.append(int(d.head_workspace_bytes[j]))
    return size + max(workspaces) <= int(d.allowed_bytes[j])


def _stage_s(
    instance: Instance, p: int, j: int, bits: tuple[int, ...], first: int
) -> float:
    """Seconds of layers of these bits, from a first one on, in phase p."""
    d = instance.devices
    is_first, is_last = first == 0, first + len(bits) == instance.num_layers
    seconds = float(
        d.whole_dispatch_s[p, j] if is_first and is_last else d.dispatch_s[p, j]
    )
    for b in bits:
        seconds += float(d.layer_s[p, j, b])
    if is_first:
        seconds += float(d.embedding_s[p, j])
    if is_last:
        seconds += float(d.head_s[p, j])
    return seconds
