"""The referee: tries every plan of tiny cases and keeps the best.

Every order of every subset of devices, every cut, every choice of bits
and wires, every case. It shares no code
with the solver but the instance's numbers and the schedule, which a simulation referees.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise, permutations, product

from llmpq_jax.costmodel.pipeline_schedule import Host, pipeline_s
from llmpq_jax.planner.instance.instance import Instance


def best_by_enumeration(instances: Sequence[Instance]) -> float | None:
    """Returns the least objective over all plans that fit, or nothing without one."""
    objectives = [
        objective for instance in instances for objective, _ in feasible_plans(instance)
    ]
    return min(objectives, default=None)


def min_omega_by_enumeration(instances: Sequence[Instance]) -> float | None:
    """Returns the least Σω over all plans that fit, or nothing without one."""
    omegas = [omega for instance in instances for _, omega in feasible_plans(instance)]
    return min(omegas, default=None)


def feasible_plans(instance: Instance) -> Iterator[tuple[float, float]]:
    """Yields objective and Σω of every plan that fits."""
    num_layers = instance.num_layers
    for num_used in range(1, min(instance.num_devices, num_layers) + 1):
        for devices in permutations(range(instance.num_devices), num_used):
            if not _are_there(instance, devices):
                continue
            for inner in combinations(range(1, num_layers), num_used - 1):
                cuts = list(pairwise((0, *inner, num_layers)))
                for bits in product(range(len(instance.bits)), repeat=num_layers):
                    for wires in product(
                        range(len(instance.wire_bits)), repeat=num_used - 1
                    ):
                        costs = _costs(instance, devices, cuts, bits, wires)
                        if costs is not None:
                            yield costs


def _are_there(instance: Instance, devices: tuple[int, ...]) -> bool:
    """Whether pools have devices for all of these, and no pinned device is idle."""
    pooled: set[int] = set()
    for device_group in instance.device_groups:
        pooled |= set(device_group.members)
        taken = 0
        for j in device_group.members:
            if j in devices:
                taken += int(instance.width[j])
        if taken > device_group.num_devices:
            return False
        if (
            taken < device_group.num_devices
            and instance.must_use[list(device_group.members)].any()
        ):
            return False
    return all(
        j in devices
        for j in range(instance.num_devices)
        if instance.must_use[j] and j not in pooled
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
    prefill, decode = [], []
    for j, (first, end) in zip(devices, cuts, strict=True):
        size = int(instance.buffer_bytes)
        stage_prefill = float(instance.dispatch_prefill_s[j])
        is_whole = first == 0 and end == len(bits)
        stage_decode = float(
            instance.whole_dispatch_decode_s[j]
            if is_whole
            else instance.dispatch_decode_s[j]
        )
        workspaces = []
        for layer in range(first, end):
            b = bits[layer]
            if not (instance.may_hold[layer, j] and instance.may_have[layer, b]):
                return None
            size += int(instance.layer_bytes[j, b]) + int(instance.kv_bytes[j])
            workspaces.append(int(instance.workspace_bytes[j, b]))
            stage_prefill += float(instance.layer_prefill_s[j, b])
            stage_decode += float(instance.layer_decode_s[j, b])
        if j == devices[0]:
            size += int(instance.embedding_bytes[j])
            workspaces.append(int(instance.embedding_workspace_bytes[j]))
            stage_prefill += float(instance.embedding_prefill_s[j])
            stage_decode += float(instance.embedding_decode_s[j])
        else:
            size += int(instance.received_bytes)
        if j == devices[-1]:
            size += int(instance.head_bytes[j])
            workspaces.append(int(instance.head_workspace_bytes[j]))
            stage_prefill += float(instance.head_prefill_s[j])
            stage_decode += float(instance.head_decode_s[j])
        if size + max(workspaces) > instance.allowed_bytes[j]:
            return None
        if stage_prefill == float("inf") or stage_decode == float("inf"):
            return None
        prefill.append(stage_prefill)
        decode.append(stage_decode)
    hops = [(o, j, k) for o, (j, k) in zip(wires, pairwise(devices), strict=True)]
    seconds = pipeline_s(
        stages_prefill_s=prefill,
        stages_decode_s=decode,
        hops_prefill_s=[float(instance.hop_prefill_s[hop]) for hop in hops],
        hops_decode_s=[float(instance.hop_decode_s[hop]) for hop in hops],
        num_prefill=instance.num_prefill,
        num_decode=instance.num_decode,
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
