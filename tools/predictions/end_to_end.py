"""Predicted seconds of whole runs, compared with measured ones, on emulated devices.

    python -m tools.predictions.end_to_end --model llama-250m --model tiny

Strategies differ in cuts, bits and micro-batches; batches are as large as planned, so that
no sequence waits for a slot. All devices share this machine's cores. A round profiles the
model again, has the planner predict each strategy, and runs all of them in turns: a machine
that is slow for some minutes then slows some of the profiles and some of the runs. The median
of the rounds' predictions is compared with the median of all runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.kernels import kernel_path
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.planner.pins import BitsPin, LayerPin, Pin
from llmpq_jax.profiler import ProfileOptions, profile
from llmpq_jax.profiler.grid import grid_for
from llmpq_jax.runtime import Pipeline, Request
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import ModelReference, Strategy
from llmpq_jax.sensitivity.weight_variance import weight_variance
from tools.benchmarks.models import random_requests
from tools.predictions.comparison import comparison, out_of_order
from tools.predictions.experiments import EXPERIMENTS, Experiment, PinnedStrategy
from tools.provenance import provenance


@click.command()
@click.option(
    "--model", "names", type=click.Choice(list(EXPERIMENTS)), multiple=True,
    default=tuple(EXPERIMENTS),
)  # fmt: skip
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--rounds", type=int, default=3)
@click.option(
    "--repeats", type=int, default=2, help="Runs of each strategy in a round."
)
def main(names: tuple[str, ...], models: Path, rounds: int, repeats: int) -> None:
    """Predicts and runs all strategies of each model."""
    for name in names:
        experiment = EXPERIMENTS[name]
        rows = _rows(experiment, experiment.folder(models), rounds, repeats)
        for row in rows:
            click.echo(
                f"| {name} | {row['stages']} | {row['micro_batch']} "
                f"| {row['predicted_s']:.3f} ({row['predicted_prefill_s']:.3f} + {row['predicted_decode_s']:.3f}) ± {row['predicted_spread']:.1%} "
                f"| {row['measured_s']:.3f} ({row['measured_prefill_s']:.3f} + {row['measured_decode_s']:.3f}) ± {row['spread']:.1%} "
                f"| {row['ratio']:.2f} | {' '.join(f'{ratio:.2f}' for ratio in row['ratios'])} |"
            )
        click.echo(
            json.dumps(
                {
                    "model": name,
                    "activations": experiment.activations,
                    "batch": experiment.workload.batch,
                    "prompt": experiment.workload.prompt_length,
                    "new_tokens": experiment.workload.new_tokens,
                    "rounds": rounds,
                    "repeats": repeats,
                    "strategies": rows,
                    "outside_15_percent": sum(
                        not 0.85 <= row["ratio"] <= 1.15 for row in rows
                    ),
                    "out_of_order": out_of_order(rows),
                    "kernels": kernel_path("cpu"),
                    **provenance("tools.predictions.end_to_end"),
                }
            )
        )


def _rows(
    experiment: Experiment, folder: Path, rounds: int, repeats: int
) -> list[dict[str, Any]]:
    """Predicts and runs each strategy in each round."""
    workload = experiment.workload
    requests = random_requests(
        folder,
        num_requests=workload.batch,
        prompt_length=workload.prompt_length,
        new_tokens=workload.new_tokens,
    )
    predicted: list[list[Strategy]] = []
    pipelines: dict[int, Pipeline] = {}
    try:
        for number in range(rounds):
            measurements = _profiled(experiment, folder, f"round {number + 1}")
            predicted.append(
                [
                    _predicted(folder, experiment, measurements, pinned)
                    for pinned in experiment.strategies
                ]
            )
            if not pipelines:
                _load(pipelines, predicted[0], requests)
            for _ in range(repeats):
                for pipeline in pipelines.values():
                    list(pipeline.serve(requests))
        return [
            comparison(
                [strategies[index] for strategies in predicted], pipelines[index]
            )
            for index in range(len(experiment.strategies))
        ]
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


def _profiled(experiment: Experiment, folder: Path, what: str) -> Measurements:
    num_devices = max(len(pinned.ends) for pinned in experiment.strategies)
    bits: tuple[Bits, ...] = tuple(
        sorted({b for pinned in experiment.strategies for b in pinned.bits})
    )
    measurements = profile(
        folder,
        _cluster(num_devices),
        ProfileOptions(
            activations=experiment.activations,
            bits=bits,
            grid=grid_for(experiment.workload),
        ),
        on_progress=lambda done, total, row: click.echo(
            f"\r{what}: {done}/{total} {row:60}", nl=False, err=True
        ),
    )
    click.echo(err=True)
    return measurements


def _predicted(
    folder: Path,
    experiment: Experiment,
    measurements: Measurements,
    pinned: PinnedStrategy,
) -> Strategy:
    """Returns the strategy as planned, with pins that leave the planner no choice."""
    architecture = read_architecture(folder)
    starts = (0, *pinned.ends[:-1])
    pins: list[Pin] = []
    for number, (first, end, bits) in enumerate(
        zip(starts, pinned.ends, pinned.bits, strict=True)
    ):
        pins.append(LayerPin(first=first, end=end, device=f"node0/cpu:{number}"))
        pins.append(BitsPin(first=first, end=end, bits=bits))
    strategy = plan(
        PlanRequest(
            architecture=architecture,
            model=ModelReference(
                path=str(folder.resolve()),
                architecture=architecture.family,
                num_layers=architecture.num_layers,
                fingerprint=model_fingerprint(folder),
            ),
            cluster=_cluster(len(pinned.ends)),
            measurements=measurements,
            sensitivity=weight_variance(folder),
            workload=experiment.workload,
            activations=experiment.activations,
            bits=tuple(sorted(set(pinned.bits))),
            head_bits=(experiment.head_bits,),
            omega_budget=float(1 << 30),
            pins=tuple(pins),
            prefill=pinned.prefill,
            decode=pinned.decode,
        )
    )
    return replace(strategy, provenance=None)


def _cluster(num_devices: int) -> Cluster:
    devices = tuple(
        Device(
            name=f"cpu:{number}",
            kind="cpu-emulated",
            platform="cpu",
            memory_bytes=4 << 30,
        )
        for number in range(num_devices)
    )
    return Cluster(name="emulated", nodes=(Node(name="node0", devices=devices),))


def _load(
    pipelines: dict[int, Pipeline],
    strategies: Sequence[Strategy],
    requests: Sequence[Request],
) -> None:
    """Adds a pipeline for each strategy, which has run once."""
    for index, strategy in enumerate(strategies):
        pipelines[index] = Pipeline.load(strategy)
    for pipeline in pipelines.values():
        pipeline.prepare(requests)
        list(pipeline.serve(requests))
        pipeline.batches.clear()


if __name__ == "__main__":
    main()
