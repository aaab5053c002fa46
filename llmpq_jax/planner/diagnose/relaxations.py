"""Changes after which there is a plan; each has been searched before it is offered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from llmpq_jax.errors import SpecError
from llmpq_jax.planner.diagnose.feasible import Repair, has_plan, largest, smallest
from llmpq_jax.planner.diagnose.pin_conflicts import pin_repairs
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.pins import with_devices, with_use
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.schema.cluster import NodeDevice
from llmpq_jax.schema.precision import ALL_BITS
from llmpq_jax.units import GIB, MIB, format_bytes

# Seconds for all of them together; each takes milliseconds to seconds.
_TIME_S = 60.0
_MAX_ADDED = 16
_AT_8_BITS: dict[str, dict[str, Any]] = {
    "the head at 8 bits": {"head_bits": (8,)},
    "the cache at 8 bits": {"kv_bits": (8,)},
}


def repairs(
    request: PlanRequest, on_note: Callable[[str], None] = lambda _: None
) -> Iterator[Repair]:
    """Yields changes of one thing each after which there is a plan.

    Of each kind of change the smallest is tried. If none helps without other devices,
    several changes at once are tried too. `on_note` receives what is tried, and what helps.
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
    changes = _lower_layers(request)
    changes |= {
        text: change
        for text, change in _AT_8_BITS.items()
        if not any(8 in getattr(request, name) for name in change)
    }
    for text, change in changes.items():
        changed = replace(request, **change)
        if has_plan(changed):
            yield Repair(text=text, request=changed)


def _lower_layers(request: PlanRequest) -> dict[str, dict[str, Any]]:
    """Returns what allows layers ever lower precisions, by the text that says so."""
    lower = tuple(bits for bits in ALL_BITS if bits < min(request.bits))
    return {
        f"layers at {' or '.join(map(str, lower[:number]))} bits": {
            "bits": (*request.bits, *lower[:number])
        }
        for number in range(1, len(lower) + 1)
    }


def _devices(request: PlanRequest) -> Iterator[Repair]:
    cluster = request.cluster
    for use, text in (("never", "used"), ("always", "left idle")):
        for own in cluster.node_devices:
            free = replace(request, cluster=with_use(cluster, {own.name: "any"}))
            if own.device.use == use and has_plan(free):
                yield Repair(text=f"{own.name} {text}", request=free)
    for kind in dict.fromkeys(own.device.kind for own in cluster.node_devices):
        more = partial(_with_more, request, kind)
        number = smallest(_MAX_ADDED, lambda n, more=more: has_plan(more(n)))
        if number:
            text = "one more device" if number == 1 else f"{number} more devices"
            yield Repair(text=f"{text} of kind {kind}", request=more(number))


def _memory(request: PlanRequest) -> Iterator[Repair]:
    """Yields more memory on one device, of equal devices on the first."""
    cluster, seen = request.cluster, set()
    for own in cluster.node_devices:
        device = own.device
        key = (own.node.name, device.kind, device.memory_bytes, device.reserve_bytes)
        if device.use == "never" or key in seen:
            continue
        seen.add(key)
        # The number of steps is whole, so that the text says no less than what is enough.
        step_bytes = (GIB if device.memory_bytes >= 4 * GIB else MIB) // 4
        with_more = partial(_with_memory, request, own, step_bytes)
        number = smallest(1 << 16, lambda n, more=with_more: has_plan(more(n)))
        if number:
            text = f"{_exactly(number * step_bytes)} more memory on {own.name}"
            yield Repair(text=text, request=with_more(number))


def _with_memory(
    request: PlanRequest, own: NodeDevice, step_bytes: int, number: int
) -> PlanRequest:
    more = own.device.memory_bytes + number * step_bytes
    larger = replace(own.device, memory_bytes=more)
    changed = with_devices(
        request.cluster, lambda name, old: larger if name == own.name else old
    )
    return replace(request, cluster=changed)


def _together(request: PlanRequest) -> Iterator[Repair]:
    """Yields all precisions lowered at once, or else also a smaller workload."""
    texts: list[str] = []
    changed = request
    all_lower = [*_lower_layers(request).items()][-1:]
    for text, change in (*_AT_8_BITS.items(), *all_lower):
        lowered = replace(changed, **change)
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


def _with_more(request: PlanRequest, kind: str, number: int) -> PlanRequest:
    """Returns the request with more devices like the first of a kind, on its node."""
    cluster = request.cluster
    own = next(each for each in cluster.node_devices if each.device.kind == kind)
    taken = {device.name for device in own.node.devices}
    free = (f"{own.device.platform}:{n}" for n in range(len(taken) + number))
    names = [name for name in free if name not in taken][:number]
    added = tuple(replace(own.device, name=name, use="any") for name in names)
    larger = replace(own.node, devices=own.node.devices + added)
    nodes = [larger if node.name == own.node.name else node for node in cluster.nodes]
    return replace(request, cluster=replace(cluster, nodes=tuple(nodes)))


# Kinds of change, in the order in which they are tried.
_CHANGES: dict[Callable[[PlanRequest], Iterator[Repair]], str] = {
    pin_repairs: "without one pin or another",
    _workloads: "a smaller batch, shorter prompts, fewer new tokens",
    _precisions: "fewer bits",
    _together: "several of these at once",
    _devices: "other devices",
    _memory: "more memory",
}
