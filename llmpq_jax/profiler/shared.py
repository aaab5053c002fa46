"""How much emulated CPU devices do at once on the one processor they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from statistics import median

from llmpq_jax.profiler.calls import visit_s
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.ring import ring
from llmpq_jax.profiler.session import Session
from llmpq_jax.spec.cluster import Cluster
from llmpq_jax.spec.measurements import PHASES, Phase, SharedCapacity
from llmpq_jax.stage.devices import JaxDevice

_ROUNDS = 9
_ROUND_S = 0.03
_MOST_REPEATS = 50
# Filling and emptying the stages must not tell.
_LEAST_ROUNDS = 4


def measure_shared(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> None:
    """Measures the capacities that are still missing.

    Every device is a stage, and as many of the grid's middle micro-batches go round as
    there are devices, as the engine drives them. Prefill keeps all of the processor's
    cores busy with one device's work alone, small steps of decode do not: so each phase
    has a capacity.
    """
    shapes = sorted(
        session.grid.shapes, key=lambda shape: (shape.num_slots, shape.rows)
    )
    longest = [s for s in shapes if s.num_slots == shapes[-1].num_slots]
    shape = longest[len(longest) // 2]
    missing = missing_shared(session, cluster, devices)
    for node in dict.fromkeys(node for node, _ in missing):
        kinds, found = zip(*_sharing(cluster, devices)[node], strict=True)
        wanted: list[tuple[Phase, Shape]] = [
            (phase, shape) for other, phase in missing if other == node
        ]
        benches = [
            session.bench(device, num_layers=session.num_stacked, bits=session.bits[0])
            for device in found
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for bench in benches:
                pool.submit(bench.compile, wanted)
        for phase, _ in wanted:
            alone = benches[0].call(phase, shape)
            with ring(benches, phase, shape) as joined:
                capacity = measured_capacity(
                    alone,
                    joined.go_round,
                    num_stages=len(benches),
                    visit_s=visit_s(session, kinds[0]),
                    clock=session.stopwatch.clock,
                )
            session.journal.add(
                SharedCapacity(node=node, phase=phase, capacity=capacity)
            )
            session.on_row(f"{node}: {phase} on {len(found)} devices at once")


def missing_shared(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> list[tuple[str, Phase]]:
    """Returns nodes whose CPU devices share a processor, and phases nobody has measured.

    A node whose cluster file says its capacity is believed and left out.
    """
    held = session.journal.measurements.shared
    return [
        (node, phase)
        for node in _sharing(cluster, devices)
        for phase in PHASES
        if not session.journal.holds(held, node=node, phase=phase)
        and not session.journal.holds(held, node=node, phase=None)
    ]


def _sharing(
    cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> dict[str, list[tuple[str, JaxDevice]]]:
    """Returns by node, where there are several, the CPU devices that share it.

    Each with its kind.
    """
    sharing: dict[str, list[tuple[str, JaxDevice]]] = {}
    for placed in cluster.placed:
        is_cpu = placed.device.platform == "cpu"
        if is_cpu and placed.name in devices and placed.node.shared_capacity is None:
            sharing.setdefault(placed.node.name, []).append(
                (placed.device.kind, devices[placed.name])
            )
    return {node: found for node, found in sharing.items() if len(found) > 1}


def measured_capacity(
    alone: Callable[[], object],
    go_round: Callable[[int, int], object],
    *,
    num_stages: int,
    visit_s: float,
    clock: Callable[[], float],
) -> float:
    """Compares stages that are all at work with one alone, in turns.

    Args:
        alone: A micro-batch once through one stage.
        go_round: So many micro-batches, so many times through all stages.
        num_stages: k of them, and as many micro-batches are on their way.
        visit_s: What a stage of a plan is charged beside a call that follows another.
        clock: Seconds from any start.

    Returns:
        k² (t_alone + visit) / t_round, held between 1 and k; the median of several
        rounds.
    """
    alone()
    go_round(num_stages, 1)
    once_s = _seconds(alone, clock)
    most_s = num_stages**2 * once_s
    repeats = min(_MOST_REPEATS, ceil(_ROUND_S / once_s)) if once_s > 0 else 1
    rounds = max(_LEAST_ROUNDS, min(_MOST_REPEATS, ceil(_ROUND_S / max(most_s, 1e-9))))
    ratios = []
    for _ in range(_ROUNDS):
        alone_s = _seconds(lambda: [alone() for _ in range(repeats)], clock) / repeats
        round_s = _seconds(lambda: go_round(num_stages, rounds), clock) / rounds
        ratios.append(num_stages**2 * (alone_s + visit_s) / round_s)
    return min(num_stages, max(1.0, median(ratios)))


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started_s = clock()
    call()
    return clock() - started_s
