"""How much emulated CPU devices do at once on the one processor they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from statistics import median

from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stage_ring import ring
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import PHASES, Phase, SharedCapacity
from llmpq_jax.stage.emulated_devices import JaxDevice

_REPEATS = 9
_ROUND_S = 0.03
_MAX_ROUNDS = 50
# So that most of the time all stages are at work.
_MIN_ROUNDS = 4


def measure_shared(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> None:
    """Measures the capacities that are still missing.

    Every device is a stage, and as many of the grid's middle micro-batches go round as
    there are devices, as the engine drives them; and so do two of them alone. Prefill keeps
    all of the processor's cores busy with one device's work alone, small steps of decode do
    not: so each phase has a capacity.
    """
    shape = session.grid.middle
    missing = missing_shared(session, cluster, devices)
    for node in dict.fromkeys(node for node, *_ in missing):
        found = _sharing(cluster, devices)[node]
        wanted: list[tuple[Phase, int]] = [
            (phase, num_devices)
            for other, phase, num_devices in missing
            if other == node
        ]
        compiled: dict[tuple[Phase, Shape], None] = dict.fromkeys(
            (phase, shape) for phase, _ in wanted
        )
        benches = [
            session.bench(device, num_layers=session.num_stacked, bits=session.bits[0])
            for device in found
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for bench in benches:
                pool.submit(bench.compile, compiled)
        for phase, num_devices in wanted:
            with ring(benches[:num_devices], phase, shape) as joined:
                capacity = measured_capacity(
                    joined.go_round,
                    joined.hop,
                    num_stages=num_devices,
                    clock=session.stopwatch.clock,
                )
            session.journal.add(
                SharedCapacity(
                    node=node,
                    phase=phase,
                    num_devices=num_devices,
                    capacity=capacity,
                )
            )
            session.on_row(f"{node}: {phase} on {num_devices} devices at once")


def missing_shared(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> list[tuple[str, Phase, int]]:
    """Returns nodes whose CPU devices share a processor, and what nobody has measured.

    That is a phase, and how many of the devices are at work. A node whose cluster file says
    its capacity is believed and left out.
    """
    held = session.journal.measurements.shared
    return [
        (node, phase, num_devices)
        for node, found in _sharing(cluster, devices).items()
        for phase in PHASES
        for num_devices in sorted({2, len(found)})
        if not session.journal.holds(
            held, node=node, phase=phase, num_devices=num_devices
        )
    ]


def _sharing(
    cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> dict[str, list[JaxDevice]]:
    """Returns by node, where there are several, the CPU devices that share it."""
    sharing: dict[str, list[JaxDevice]] = {}
    for node_devices in cluster.node_devices:
        is_cpu = node_devices.device.platform == "cpu"
        if (
            is_cpu
            and node_devices.name in devices
            and node_devices.node.shared_capacity is None
        ):
            sharing.setdefault(node_devices.node.name, []).append(
                devices[node_devices.name]
            )
    return {node: found for node, found in sharing.items() if len(found) > 1}


def measured_capacity(
    go_round: Callable[[int, int], object],
    hop: Callable[[], object],
    *,
    num_stages: int,
    clock: Callable[[], float],
) -> float:
    """Compares stages that are all at work with stages of which one is, in turns.

    Args:
        go_round: So many micro-batches, so many times through all stages.
        hop: What a stage sends to the next one.
        num_stages: k of them, and as many micro-batches are on their way.
        clock: Seconds from any start.

    Returns:
        c = k / (1 + s (k − 1)), held between 1 and k, with s the serial fraction by which
        `costmodel.pipeline_schedule` foretells r rounds of k micro-batches to take t: with p the seconds
        of a stage in a round of one micro-batch, hops taken off,

            t = (1 − s) (r k + k − 1) p + s r k² p

        The median of several times r rounds.
    """
    go_round(num_stages, 1)
    go_round(1, 1)
    once_s = _seconds(lambda: go_round(1, 1), clock)
    rounds = ceil(_ROUND_S / max(num_stages * once_s, 1e-9))
    rounds = max(_MIN_ROUNDS, min(_MAX_ROUNDS, rounds))
    apart = rounds * num_stages + num_stages - 1
    fractions = []
    for _ in range(_REPEATS):
        round_s = _seconds(lambda: go_round(1, rounds), clock) / rounds
        hops_s = (num_stages - 1) * _seconds(hop, clock)
        taken_s = _seconds(lambda: go_round(num_stages, rounds), clock)
        stage_s = max(round_s - hops_s, round_s / 2) / num_stages
        steps = taken_s / stage_s
        fractions.append((steps - apart) / (rounds * num_stages**2 - apart))
    serial = min(1.0, max(0.0, median(fractions)))
    return num_stages / (1 + serial * (num_stages - 1))


def _seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    started_s = clock()
    call()
    return clock() - started_s
