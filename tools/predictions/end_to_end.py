"""Predicted seconds of whole runs beside measured ones, on emulated devices.

    python -m tools.predictions.end_to_end --model llama-250m --model tiny

Each model is profiled once; then strategies that differ in cuts, bits and micro-batches
are predicted by the planner and run in turns, batches as large as planned, so that no row
waits for a place. All devices share this machine's cores.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from llmpq_jax.indicator.weight_variance import weight_variance
from llmpq_jax.kernels import kernel_path
from llmpq_jax.profiler import profile
from llmpq_jax.profiler.grid import grid_for
from llmpq_jax.runtime import Pipeline
from llmpq_jax.solver import PlanRequest, plan
from llmpq_jax.solver.pins import BitsPin, LayerPin, Pin
from llmpq_jax.spec.cluster import Cluster, Device, Node
from llmpq_jax.spec.families import read_architecture
from llmpq_jax.spec.fingerprint import model_fingerprint
from llmpq_jax.spec.measurements import Measurements
from llmpq_jax.spec.precision import Activations, Bits, HeadBits
from llmpq_jax.spec.strategy import ModelReference, Strategy
from llmpq_jax.spec.workload import Workload
from tools.benchmarks.models import random_model, random_requests
from tools.provenance import provenance

_TINY = Path(__file__).parents[2] / "examples" / "tiny-code-lm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A strategy to be predicted and run.

    Attributes:
        ends: Layers up to which each stage reaches; the last is the model's.
        bits: Of each stage's layers.
        prefill: Rows of a prefill micro-batch.
        decode: Rows of a decode micro-batch.
    """

    ends: tuple[int, ...]
    bits: tuple[Bits, ...]
    prefill: int
    decode: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """What is run of one model.

    Attributes:
        folder: Makes the checkpoint, or finds it.
        activations: Of all strategies.
        head_bits: Likewise.
        workload: Likewise.
        cases: The strategies.
    """

    folder: Callable[[Path], Path]
    activations: Activations
    head_bits: HeadBits
    workload: Workload
    cases: tuple[Case, ...]


EXPERIMENTS = {
    "llama-250m": Experiment(
        folder=lambda models: random_model("llama-250m", models),
        activations="bfloat16",
        head_bits=8,
        workload=Workload(batch=16, prompt_length=128, new_tokens=64),
        cases=(
            Case(ends=(16,), bits=(8,), prefill=16, decode=16),
            Case(ends=(16,), bits=(4,), prefill=4, decode=16),
            Case(ends=(8, 16), bits=(8, 8), prefill=4, decode=16),
            Case(ends=(8, 16), bits=(8, 8), prefill=4, decode=8),
            Case(ends=(8, 16), bits=(8, 8), prefill=1, decode=2),
            Case(ends=(4, 16), bits=(16, 4), prefill=2, decode=8),
            Case(ends=(4, 8, 12, 16), bits=(8, 8, 8, 8), prefill=4, decode=4),
            Case(ends=(3, 10, 16), bits=(16, 8, 4), prefill=8, decode=16),
        ),
    ),
    "tiny": Experiment(
        folder=lambda _: _TINY,
        activations="float32",
        head_bits=16,
        workload=Workload(batch=16, prompt_length=64, new_tokens=64),
        cases=(
            Case(ends=(12,), bits=(16,), prefill=16, decode=16),
            Case(ends=(12,), bits=(4,), prefill=4, decode=16),
            Case(ends=(6, 12), bits=(8, 8), prefill=4, decode=16),
            Case(ends=(6, 12), bits=(8, 8), prefill=4, decode=8),
            Case(ends=(6, 12), bits=(16, 8), prefill=1, decode=2),
            Case(ends=(3, 6, 9, 12), bits=(8, 16, 16, 8), prefill=2, decode=16),
            Case(ends=(3, 6, 9, 12), bits=(16, 16, 16, 16), prefill=2, decode=4),
            Case(ends=(2, 8, 12), bits=(16, 4, 8), prefill=8, decode=16),
        ),
    ),
}


@click.command()
@click.option(
    "--model", "names", type=click.Choice(list(EXPERIMENTS)), multiple=True,
    default=tuple(EXPERIMENTS),
)  # fmt: skip
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--repeats", type=int, default=5)
@click.option(
    "--measurements", type=click.Path(path_type=Path), default=None,
    help="Folder that keeps what is measured, and is read on the next run.",
)  # fmt: skip
def main(
    names: tuple[str, ...], models: Path, repeats: int, measurements: Path | None
) -> None:
    """Predicts and runs."""
    for name in names:
        experiment = EXPERIMENTS[name]
        folder = experiment.folder(models)
        strategies = _planned(name, folder, experiment, measurements)
        rows = _run(folder, experiment, strategies, repeats)
        for row in rows:
            click.echo(
                f"| {name} | {row['stages']} | {row['micro_batch']} "
                f"| {row['predicted_s']:.3f} ({row['predicted_prefill_s']:.3f} + {row['predicted_decode_s']:.3f}) "
                f"| {row['measured_s']:.3f} ({row['measured_prefill_s']:.3f} + {row['measured_decode_s']:.3f}) ± {row['spread']:.1%} "
                f"| {row['ratio']:.2f} |"
            )
        click.echo(
            json.dumps(
                {
                    "model": name,
                    "activations": experiment.activations,
                    "batch": experiment.workload.batch,
                    "prompt": experiment.workload.prompt_length,
                    "new_tokens": experiment.workload.new_tokens,
                    "repeats": repeats,
                    "strategies": rows,
                    "outside_15_percent": sum(
                        not 0.85 <= row["ratio"] <= 1.15 for row in rows
                    ),
                    "out_of_order": _out_of_order(rows),
                    "kernels": kernel_path("cpu"),
                    **provenance("tools.predictions.end_to_end"),
                }
            )
        )


def _planned(
    name: str, folder: Path, experiment: Experiment, kept: Path | None
) -> list[Strategy]:
    """Measures the model and lets the planner predict each case."""
    num_devices = max(len(case.ends) for case in experiment.cases)
    cluster = _cluster(num_devices)
    bits: tuple[Bits, ...] = tuple(
        sorted({b for case in experiment.cases for b in case.bits})
    )
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    measurements = profile(
        folder,
        cluster,
        activations=experiment.activations,
        bits=bits,
        grid=grid_for(experiment.workload),
        out=None if kept is None else kept / f"{name}.toml",
        on_progress=lambda done, total, what: click.echo(
            f"\r{done}/{total} {what:60}", nl=False, err=True
        ),
    )
    click.echo(err=True)
    return [
        _predicted(folder, experiment, measurements, case) for case in experiment.cases
    ]


def _predicted(
    folder: Path, experiment: Experiment, measurements: Measurements, case: Case
) -> Strategy:
    """Leaves the planner no choice."""
    architecture = read_architecture(folder)
    starts = (0, *case.ends[:-1])
    pins: list[Pin] = []
    for number, (first, end, bits) in enumerate(
        zip(starts, case.ends, case.bits, strict=True)
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
            cluster=_cluster(len(case.ends)),
            measurements=measurements,
            sensitivity=weight_variance(folder),
            workload=experiment.workload,
            activations=experiment.activations,
            bits=tuple(sorted(set(case.bits))),
            head_bits=(experiment.head_bits,),
            omega_budget=float(1 << 30),
            pins=tuple(pins),
            prefill=case.prefill,
            decode=case.decode,
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


def _run(
    folder: Path,
    experiment: Experiment,
    strategies: Sequence[Strategy],
    repeats: int,
) -> list[dict[str, Any]]:
    """Runs the strategies in turns, so that drift reaches all of them alike."""
    workload = experiment.workload
    requests = random_requests(
        folder,
        num_requests=workload.batch,
        prompt_length=workload.prompt_length,
        new_tokens=workload.new_tokens,
    )
    # The most devices first: how many there are is settled as JAX starts.
    order = sorted(range(len(strategies)), key=lambda i: -len(strategies[i].stages))
    pipelines = {index: Pipeline.load(strategies[index]) for index in order}
    try:
        for pipeline in pipelines.values():
            pipeline.prepare(requests)
            list(pipeline.serve(requests))
            pipeline.batches.clear()
        for _ in range(repeats):
            for pipeline in pipelines.values():
                list(pipeline.serve(requests))
        return [
            _row(strategy, pipelines[index])
            for index, strategy in enumerate(strategies)
        ]
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


def _row(strategy: Strategy, pipeline: Pipeline) -> dict[str, Any]:
    predicted = strategy.predicted
    assert predicted is not None
    batches = pipeline.batches
    measured = [batch.latency_s for batch in batches]
    first, middle, third = np.percentile(measured, [25, 50, 75]).tolist()
    last = batches[-1].stages
    return {
        "stages": [
            f"{stage.layers[0]}-{stage.layers[1] - 1}@{stage.bits[0]}"
            for stage in strategy.stages
        ],
        "micro_batch": [strategy.micro_batch.prefill, strategy.micro_batch.decode],
        "predicted_s": predicted.latency_s,
        "predicted_prefill_s": predicted.prefill_s,
        "predicted_decode_s": predicted.decode_s,
        "measured_s": middle,
        "measured_prefill_s": median(batch.prefill_s for batch in batches),
        "measured_decode_s": median(batch.decode_s for batch in batches),
        "all_measured_s": measured,
        "spread": (third - first) / 2 / middle,
        "ratio": predicted.latency_s / middle,
        "predicted_stage_s": [
            (s.predicted.prefill_s, s.predicted.decode_s)
            for s in strategy.stages
            if s.predicted
        ],
        "measured_stage_s": [(s.prefill_s, s.decode_s) for s in last],
        "idle_share": [s.idle_s / batches[-1].latency_s for s in last],
    }


def _out_of_order(rows: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Pairs predicted to differ by more than 15 % and the spread, measured otherwise."""
    wrong = []
    for a, b in combinations(range(len(rows)), 2):
        fast, slow = sorted((a, b), key=lambda i: rows[i]["predicted_s"])
        margin = 0.15 + rows[fast]["spread"] + rows[slow]["spread"]
        is_told = rows[slow]["predicted_s"] > (1 + margin) * rows[fast]["predicted_s"]
        if is_told and rows[slow]["measured_s"] <= rows[fast]["measured_s"]:
            wrong.append((fast, slow))
    return wrong


if __name__ == "__main__":
    main()
