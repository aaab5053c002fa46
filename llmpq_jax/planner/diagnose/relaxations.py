"""Changes after which there is a plan; each has been searched before it is offered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from llmpq_jax.errors import SpecError
from llmpq_jax.planner.constraints import with_use
from llmpq_jax.planner.diagnose.feasible import Repair, has_plan
from llmpq_jax.planner.diagnose.pin_relaxations import pin_repairs
from llmpq_jax.planner.diagnose.thresholds import largest, smallest
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.precision import ALL_BITS
from llmpq_jax.units import GIB, MIB, format_bytes

# Seconds for all of them together; each takes milliseconds to seconds.
_TIME_S = 60.0
_MAX_ADDED = 16


def repairs(
    request: PlanRequest, on_note: Callable[[str], None] = lambda _: None
) -> Iterator[Repair]:
    """Yields changes of one thing each after which there is a plan.

    Of each kind of change the smallest is tried. If none helps without other devices,
    several changes at once are tried too.

    Args:
        request: Request that has no plan.
        on_note: Function that receives what is tried, and what helps.
    """
    deadline = time.monotonic() + _TIME_S
    num_found = 0
    for changes, what in _CHANGES.items():
        if changes is _together and num_found:
            continue
        on_note(f"no plan fits; trying {what}")
        for repair in changes(request):
            on_note(f"would do: {repair.text}")
            num_found += 1
            yield repair
            if time.monotonic() > deadline:
                return


def _workloads(request: PlanRequest) -> Iterator[Repair]:
    workload = request.workload
    pins = [rows for rows in (request.prefill, request.decode) if rows]

    def at(**limits: int) -> PlanRequest:
        return replace(request, workload=workload.within(**limits))

    limits = (
        ("a batch of {}", "batch", max(pins, default=1)),
        ("prompts of at most {} tokens", "prompt_length", 1),
        ("at most {} new tokens", "new_tokens", 1),
    )
    for text, name, lower in limits:
        number = largest(
            lower,
            getattr(workload, name) - 1,
            lambda n, name=name: has_plan(at(**{name: n})),
        )
        if number:
            yield Repair(text=text.format(number), request=at(**{name: number}))


def _precisions(request: PlanRequest) -> Iterator[Repair]:
    for text, changed in _precision_changes(request):
        if has_plan(changed):
            yield Repair(text=text, request=changed)


def _precision_changes(request: PlanRequest) -> Iterator[tuple[str, PlanRequest]]:
    lower = tuple(bits for bits in ALL_BITS if bits < min(request.bits))
    for number in range(1, len(lower) + 1):
        text = f"layers at {' or '.join(str(bits) for bits in lower[:number])} bits"
        yield text, replace(request, bits=(*request.bits, *lower[:number]))
    if 8 not in request.head_bits:
        yield "the head at 8 bits", replace(request, head_bits=(8,))
    if 8 not in request.kv_bits:
        yield "the cache at 8 bits", replace(request, kv_bits=(8,))


def _devices(request: PlanRequest) -> Iterator[Repair]:
    cluster = request.cluster
    for use, text in (("never", "{} used"), ("always", "{} left idle")):
        for node_device in cluster.node_devices:
            if node_device.device.use == use:
                free = with_use(cluster, {node_device.name: "any"})
                freed = replace(request, cluster=free)
                if has_plan(freed):
                    yield Repair(text=text.format(node_device.name), request=freed)
    kinds = dict.fromkeys(p.device.kind for p in cluster.node_devices)
    for kind in kinds:

        def more(number: int, kind: str = kind) -> PlanRequest:
            return replace(request, cluster=_with_more(cluster, kind, number))

        number = smallest(_MAX_ADDED, lambda n, more=more: has_plan(more(n)))
        if number:
            text = "one more device" if number == 1 else f"{number} more devices"
            yield Repair(text=f"{text} of kind {kind}", request=more(number))


def _memory(request: PlanRequest) -> Iterator[Repair]:
    """Yields more memory on one device, of equal devices on the first."""
    cluster, seen = request.cluster, set()
    for node_device in cluster.node_devices:
        node, device = node_device.node, node_device.device
        key = (node.name, device.kind, device.memory_bytes, device.reserve_bytes)
        if device.use == "never" or key in seen:
            continue
        seen.add(key)
        # The number of steps is whole, so that the text says no less than what is enough.
        step_bytes = (GIB if device.memory_bytes >= 4 * GIB else MIB) // 4

        def with_more(
            number: int,
            name: str = node_device.name,
            device: Device = device,
            step_bytes: int = step_bytes,
        ) -> PlanRequest:
            memory_bytes = device.memory_bytes + number * step_bytes
            larger = replace(device, memory_bytes=memory_bytes)
            return replace(request, cluster=_with(cluster, name, larger))

        number = smallest(
            1 << 16, lambda n, with_more=with_more: has_plan(with_more(n))
        )
        if number:
            size = _exactly(number * step_bytes)
            text = f"{size} more memory on {node_device.name}"
            yield Repair(text=text, request=with_more(number))


def _together(request: PlanRequest) -> Iterator[Repair]:
    """Yields all precisions lowered at once, or else also a smaller workload."""
    texts: list[str] = []
    changed = request
    lower = tuple(bits for bits in ALL_BITS if bits < min(request.bits))
    changes: dict[str, Callable[[PlanRequest], PlanRequest]] = {
        "the head at 8 bits": lambda old: replace(old, head_bits=(8,)),
        "the cache at 8 bits": lambda old: replace(old, kv_bits=(8,)),
    }
    if lower:
        text = f"layers at {' or '.join(str(bits) for bits in lower)} bits"
        changes[text] = lambda old: replace(old, bits=(*old.bits, *lower))
    for text, change in changes.items():
        lowered = change(changed)
        if lowered != changed and _is_measured(lowered):
            texts.append(text)
            changed = lowered
    if len(texts) > 1 and has_plan(changed):
        yield Repair(text=" and ".join(texts), request=changed)
        return
    for kept in (changed, request):
        smaller = next(_workloads(kept), None)
        if smaller is not None:
            parts = [*(texts if kept is changed else []), smaller.text]
            yield Repair(text=" and ".join(parts), request=smaller.request)
            return


def _is_measured(request: PlanRequest) -> bool:
    try:
        make_problem(request)
    except SpecError:
        return False
    return True


def _exactly(size: int) -> str:
    """Writes bytes so that reading them gives no fewer."""
    unit, name = (GIB, "GiB") if size >= GIB else (MIB, "MiB")
    if size % unit and size >= 1000 * unit:
        return format_bytes(size)
    return f"{size / unit:g} {name}"


def _with(cluster: Cluster, name: str, device: Device) -> Cluster:
    """Returns the cluster with the device of that name replaced."""
    nodes = tuple(
        replace(
            node,
            devices=tuple(
                device if f"{node.name}/{own.name}" == name else own
                for own in node.devices
            ),
        )
        for node in cluster.nodes
    )
    return replace(cluster, nodes=nodes)


def _with_more(cluster: Cluster, kind: str, number: int) -> Cluster:
    """Returns the cluster with more devices like the first of a kind, on its node."""
    node_device = next(
        each for each in cluster.node_devices if each.device.kind == kind
    )
    taken = {device.name for device in node_device.node.devices}
    free = (f"{node_device.device.platform}:{n}" for n in range(len(taken) + number))
    names = [name for name in free if name not in taken][:number]
    added = tuple(replace(node_device.device, name=name, use="any") for name in names)
    nodes: tuple[Node, ...] = tuple(
        replace(node, devices=node.devices + added)
        if node.name == node_device.node.name
        else node
        for node in cluster.nodes
    )
    return replace(cluster, nodes=nodes)


# Kinds of change, in the order in which they are tried.
_CHANGES: dict[Callable[[PlanRequest], Iterator[Repair]], str] = {
    pin_repairs: "without one pin or another",
    _workloads: "a smaller batch, shorter prompts, fewer new tokens",
    _precisions: "fewer bits",
    _together: "several of these at once",
    _devices: "other devices",
    _memory: "more memory",
}
