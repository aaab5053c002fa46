"""How much emulated CPU devices do at once on the one processor they share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from math import ceil
from statistics import median

from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stage_bench import StageContents
from llmpq_jax.profiler.stage_ring import Ring
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.measurements import PHASES, Phase, SharedCapacity
from llmpq_jax.stage.emulated_devices import JaxDevice

NUM_REPEATS = 9
_ROUNDS_S = 0.03
_MAX_ROUNDS = 50
# Filling and draining the pipeline is then the smaller part of a run.
_MIN_ROUNDS = 4


def measure_shared_capacity(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> None:
    """Measures the capacities that are still missing.

    Every device is a stage, and as many micro-batches of the grid's middle shape circulate
    as there are devices, as in a pipeline; the same with two devices alone. Prefill of one
    device keeps all of the processor's cores busy, small steps of decode do not, so each
    phase has its own capacity.
    """
    shape = session.options.grid.middle
    missing = missing_shared_capacity(session, cluster, devices)
    for node in dict.fromkeys(node for node, *_ in missing):
        wanted: list[tuple[Phase, int]] = [
            (phase, number) for other, phase, number in missing if other == node
        ]
        programs: set[tuple[Phase, Shape]] = {(phase, shape) for phase, _ in wanted}
        contents = StageContents(
            num_layers=session.num_stacked, bits=session.options.bits[0]
        )
        benches = [
            session.bench((device,), contents)
            for device in _sharing(cluster, devices)[node]
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for bench in benches:
                pool.submit(bench.compile, programs)
        for phase, num_devices in wanted:
            with closing(Ring(benches[:num_devices], phase, shape)) as ring:
                capacity = measure_capacity(
                    ring.run_rounds, ring.hop, num_devices, session.options.stopwatch
                )
            row = SharedCapacity(
                node=node, phase=phase, num_devices=num_devices, capacity=capacity
            )
            session.journal.add(row)
            session.on_row(f"{node}: {phase} on {num_devices} devices at once", 1.0)


def missing_shared_capacity(
    session: Session, cluster: Cluster, devices: Mapping[str, JaxDevice]
) -> list[tuple[str, Phase, int]]:
    """Returns node, phase and number of busy devices of each capacity still missing.

    Nodes whose capacity the cluster file gives are left out.
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
    """Returns the CPU devices of each node that has several of them."""
    sharing: dict[str, list[JaxDevice]] = {}
    for node_device in cluster.node_devices:
        node = node_device.node
        is_cpu = node_device.device.platform == "cpu"
        if is_cpu and node_device.name in devices and node.shared_capacity is None:
            sharing.setdefault(node.name, []).append(devices[node_device.name])
    return {node: found for node, found in sharing.items() if len(found) > 1}


def measure_capacity(
    run_rounds: Callable[[int, int], object],
    hop: Callable[[], object],
    num_stages: int,
    stopwatch: Stopwatch,
) -> float:
    """Compares stages that all work at once with stages of which one works at a time.

    `run_rounds` sends a number of micro-batches through all stages a number of times, and
    `hop` makes one transfer from a stage to the next. There are as many micro-batches as
    stages, k.

    Returns:
        c = k / (1 + s (k − 1)), clipped to 1 … k. The serial fraction s is the one by which
        `costmodel.pipeline_schedule` predicts the seconds t of r rounds of k micro-batches:
        with p the seconds of a stage in a round of one micro-batch, without hops,

            t = (1 − s) (r k + k − 1) p + s r k² p

        and the median of s over several measurements is used.
    """
    run_rounds(num_stages, 1)
    run_rounds(1, 1)
    once_s = stopwatch.once_s(lambda: run_rounds(1, 1))
    rounds = ceil(_ROUNDS_S / max(num_stages * once_s, 1e-9))
    rounds = max(_MIN_ROUNDS, min(_MAX_ROUNDS, rounds))
    apart = rounds * num_stages + num_stages - 1
    fractions = []
    for _ in range(NUM_REPEATS):
        round_s = stopwatch.once_s(lambda: run_rounds(1, rounds)) / rounds
        hops_s = (num_stages - 1) * stopwatch.once_s(hop)
        taken_s = stopwatch.once_s(lambda: run_rounds(num_stages, rounds))
        stage_s = max(round_s - hops_s, round_s / 2) / num_stages
        steps = taken_s / stage_s
        fractions.append((steps - apart) / (rounds * num_stages**2 - apart))
    serial = min(1.0, max(0.0, median(fractions)))
    return num_stages / (1 + serial * (num_stages - 1))
