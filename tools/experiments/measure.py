"""Runs strategies on an emulated cluster, and times the hops between its nodes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from llmpq_jax.files import write_text
from llmpq_jax.runtime import Pipeline, Request
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.runtime.engines.ray.ray_engine import start_ray
from llmpq_jax.schema.cluster import Cluster, Link
from llmpq_jax.schema.record_files import read_strategy
from llmpq_jax.schema.strategy import Strategy
from tools.emulation.nodes import EmulatedNodes
from tools.experiments.definition import BUILD, Experiment
from tools.experiments.even import even_plan

_HEARTBEAT_TIMEOUT_S = 300.0


def run_plans(
    experiment: Experiment,
    folder: Path,
    nodes: EmulatedNodes,
    address: str,
    *,
    seconds: float,
    on_note: Callable[[str], None],
) -> bool:
    """Runs the strategies of a folder that have no runs yet, within a time limit.

    Returns:
        Whether all have been run.
    """
    start_s = time.monotonic()
    plans = json.loads((folder / "plans.json").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(p["strategy"] for p in plans if p["strategy"]))
    results = folder / "runs.json"
    runs: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    for name in names:
        if name in runs:
            continue
        if time.monotonic() - start_s > seconds:
            return False
        records = run_strategy(read_strategy(folder / name), experiment, nodes, address)
        runs[name] = {
            "latency_s": [record.latency_s for record in records],
            "prefill_s": [record.prefill_s for record in records],
        }
        write_text(results, json.dumps(runs, indent=1) + "\n")
        on_note(f"{name}: {[round(record.latency_s, 3) for record in records]} s")
    return True


def run_strategy(
    strategy: Strategy, experiment: Experiment, nodes: EmulatedNodes, address: str
) -> Sequence[BatchRecord]:
    """Loads without limits of speed, runs within them, and returns the runs that count."""
    requests = [
        Request(
            token_ids=tuple(row),
            max_new_tokens=experiment.new_tokens,
            ignores_eos=True,
        )
        for row in experiment.prompts().tolist()
    ]
    start = partial(
        start_ray,
        address=address,
        heartbeat_timeout_s=_HEARTBEAT_TIMEOUT_S,
        set_up=partial(_set_up, str(BUILD)),
    )
    with nodes.at_full_speed():
        pipeline = Pipeline.load(strategy, start=start)
    with pipeline:
        with nodes.at_full_speed():
            pipeline.prepare(requests)
        for _ in range(experiment.warm_ups + experiment.runs):
            list(pipeline.serve(requests))
        return pipeline.batches[experiment.warm_ups :]


def measured_links(
    experiment: Experiment, cluster: Cluster, nodes: EmulatedNodes, address: str
) -> tuple[Link, ...]:
    """Times hops of an even plan's run at two sizes; the links of all nodes are equal.

    A hop lasts from the end of a stage until the next stage has received the message,
    while the pipeline runs: sending uses a part of a node's processor.
    """
    strategy = even_plan(experiment, cluster)
    (record, *_) = run_strategy(strategy, replace(experiment, runs=1), nodes, address)
    hidden = 4 * strategy_width(experiment)
    sizes = {
        "prefill": strategy.micro_batch.prefill * experiment.prompt_length * hidden,
        "decode": strategy.micro_batch.decode * hidden,
    }
    ended = {
        (event.phase, event.micro_batch, event.step, event.stage): event.ended_s
        for event in record.events
    }
    seconds: dict[str, list[float]] = {"prefill": [], "decode": []}
    for event in record.events:
        before = (event.phase, event.micro_batch, event.step, event.stage - 1)
        if before in ended:
            seconds[event.phase].append(event.received_s - ended[before])
    medians = {phase: max(1e-6, median(found)) for phase, found in seconds.items()}
    more = max(1e-9, medians["prefill"] - medians["decode"])
    bandwidth = (sizes["prefill"] - sizes["decode"]) / more
    latency_s = max(0.0, medians["decode"] - sizes["decode"] / bandwidth)
    names = [node.name for node in cluster.nodes]
    return tuple(
        Link(
            between=(names[i], names[j]),
            bandwidth_bytes_per_s=float(f"{bandwidth:.3g}"),
            latency_s=float(f"{latency_s:.3g}"),
        )
        for i in range(len(names))
        for j in range(i + 1, len(names))
    )


def strategy_width(experiment: Experiment) -> int:
    """Returns the width of the model's hidden states."""
    from llmpq_jax.arch.families import read_architecture

    return read_architecture(experiment.model_path).hidden_size


def _set_up(folder: str) -> None:
    """Makes a worker use the compile cache."""
    from llmpq_jax.tasks.compile_cache import keep_compiled

    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    keep_compiled(Path(folder))
