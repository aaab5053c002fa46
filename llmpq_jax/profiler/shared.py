"""How much emulated CPU devices do at once on the one processor they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from statistics import median
from threading import Barrier

from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.session import Session
from llmpq_jax.spec.cluster import Cluster
from llmpq_jax.spec.measurements import PHASES, Phase, SharedCapacity
from llmpq_jax.stage.devices import JaxDevice

_ROUNDS = 15
_ROUND_S = 0.03
_MOST_REPEATS = 50


def measure_shared(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> None:
    """Measures the capacities that are still missing.

    Every device runs the grid's middle micro-batch through layers of its own. Prefill
    keeps all of the processor's cores busy with one device's work alone, small steps of
    decode do not: so each phase has a capacity.
    """
    shapes = sorted(
        session.grid.shapes, key=lambda shape: (shape.num_slots, shape.rows)
    )
    longest = [s for s in shapes if s.num_slots == shapes[-1].num_slots]
    shape = longest[len(longest) // 2]
    missing = missing_shared(session, cluster, devices)
    for node in dict.fromkeys(node for node, _ in missing):
        found = _sharing(cluster, devices)[node]
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
            calls = [bench.call(phase, shape) for bench in benches]
            capacity = measured_capacity(calls, session.stopwatch.clock)
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
) -> dict[str, list[JaxDevice]]:
    """Returns by node, where there are several, the CPU devices that share it."""
    sharing: dict[str, list[JaxDevice]] = {}
    for placed in cluster.placed:
        is_cpu = placed.device.platform == "cpu"
        if is_cpu and placed.name in devices and placed.node.shared_capacity is None:
            sharing.setdefault(placed.node.name, []).append(devices[placed.name])
    return {node: found for node, found in sharing.items() if len(found) > 1}


def measured_capacity(
    calls: Sequence[Callable[[], object]], clock: Callable[[], float]
) -> float:
    """Runs one call alone and all at once, in turns, and compares.

    Returns:
        k · t_alone / t_together of k calls, held between 1 and k; the median of
        several rounds.
    """
    for call in calls:
        call()
    once_s = _alone_s(calls[0], 1, clock)
    repeats = min(_MOST_REPEATS, ceil(_ROUND_S / once_s)) if once_s > 0 else 1
    ratios = []
    with ThreadPoolExecutor(len(calls)) as pool:
        for _ in range(_ROUNDS):
            alone_s = _alone_s(calls[0], repeats, clock)
            together_s = _together_s(calls, repeats, clock, pool)
            ratios.append(alone_s / together_s)
    return min(len(calls), max(1.0, len(calls) * median(ratios)))


def _alone_s(
    call: Callable[[], object], repeats: int, clock: Callable[[], float]
) -> float:
    started_s = clock()
    for _ in range(repeats):
        call()
    return clock() - started_s


def _together_s(
    calls: Sequence[Callable[[], object]],
    repeats: int,
    clock: Callable[[], float],
    pool: ThreadPoolExecutor,
) -> float:
    start = Barrier(len(calls) + 1)

    def run(call: Callable[[], object]) -> None:
        start.wait()
        for _ in range(repeats):
            call()

    running = [pool.submit(run, call) for call in calls]
    started_s = clock()
    start.wait()
    for one in running:
        one.result()
    return clock() - started_s
