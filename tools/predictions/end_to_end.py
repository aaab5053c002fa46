"""Predicted seconds of whole runs beside measured ones, on emulated devices.

    python -m tools.predictions.end_to_end --model llama-250m --model tiny

Strategies differ in cuts, bits and micro-batches; batches are as large as planned, so that
no row waits for a place. All devices share this machine's cores. A round profiles the
model anew, has the planner predict each strategy, and runs all of them in turns: a machine
that is slow for some minutes so slows some of the profiles and some of the runs. What is
judged is the median of the rounds' predictions beside the median of all runs.
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

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.kernels import kernel_path
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.planner.constraints import BitsPin, LayerPin, Pin
from llmpq_jax.profiler import profile
from llmpq_jax.profiler.grid import grid_for
from llmpq_jax.runtime import Pipeline, Request
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.measurements import Measurements
from llmpq_jax.schema.precision import Activations, Bits, HeadBits
from llmpq_jax.schema.strategy import ModelReference, Strategy
from llmpq_jax.schema.workload import Workload
from llmpq_jax.sensitivity.weight_variance import weight_variance
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
@click.option("--rounds", type=int, default=3)
@click.option(
    "--repeats", type=int, default=2, help="Runs of each strategy in a round."
)
def main(names: tuple[str, ...], models: Path, rounds: int, repeats: int) -> None:
    """Predicts and runs."""
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
                    "out_of_order": _out_of_order(rows),
                    "kernels": kernel_path("cpu"),
                    **provenance("tools.predictions.end_to_end"),
                }
            )
        )


def _rows(
    experiment: Experiment, folder: Path, rounds: int, repeats: int
) -> list[dict[str, Any]]:
    """Predicts and runs each case in each round."""
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
                    _predicted(folder, experiment, measurements, case)
                    for case in experiment.cases
                ]
            )
            if not pipelines:
                _load(pipelines, predicted[0], requests)
            for _ in range(repeats):
                for pipeline in pipelines.values():
                    list(pipeline.serve(requests))
        return [
            _row([strategies[index] for strategies in predicted], pipelines[index])
            for index in range(len(experiment.cases))
        ]
    finally:
        for pipeline in pipelines.values():
            pipeline.close()


def _profiled(experiment: Experiment, folder: Path, what: str) -> Measurements:
    num_devices = max(len(case.ends) for case in experiment.cases)
    bits: tuple[Bits, ...] = tuple(
        sorted({b for case in experiment.cases for b in case.bits})
    )
    measurements = profile(
        folder,
        _cluster(num_devices),
        activations=experiment.activations,
        bits=bits,
        grid=grid_for(experiment.workload),
        on_progress=lambda done, total, row: click.echo(
            f"\r{what}: {done}/{total} {row:60}", nl=False, err=True
        ),
    )
    click.echo(err=True)
    return measurements


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


def _load(
    pipelines: dict[int, Pipeline],
    strategies: Sequence[Strategy],
    requests: Sequence[Request],
) -> None:
    """Adds a pipeline for each strategy, ready to be timed."""
    for index, strategy in enumerate(strategies):
        pipelines[index] = Pipeline.load(strategy)
    for pipeline in pipelines.values():
        pipeline.prepare(requests)
        list(pipeline.serve(requests))
        pipeline.batches.clear()


def _row(strategies: Sequence[Strategy], pipeline: Pipeline) -> dict[str, Any]:
    """Puts the predictions of each round beside all runs of a case.

    Args:
        strategies: As predicted in each round.
        pipeline: That ran as often in each.
    """
    strategy = strategies[0]
    predicted = [found.predicted for found in strategies if found.predicted]
    predicted_s = [found.latency_s for found in predicted]
    batches = pipeline.batches
    measured_s = [batch.latency_s for batch in batches]
    in_rounds = np.reshape(measured_s, (len(strategies), -1))
    last = batches[-1].stages
    return {
        "stages": [
            f"{stage.layers[0]}-{stage.layers[1] - 1}@{stage.bits[0]}"
            for stage in strategy.stages
        ],
        "micro_batch": [strategy.micro_batch.prefill, strategy.micro_batch.decode],
        "predicted_s": median(predicted_s),
        "predicted_prefill_s": median(found.prefill_s for found in predicted),
        "predicted_decode_s": median(found.decode_s for found in predicted),
        "all_predicted_s": predicted_s,
        "predicted_spread": _spread(predicted_s),
        "measured_s": median(measured_s),
        "measured_prefill_s": median(batch.prefill_s for batch in batches),
        "measured_decode_s": median(batch.decode_s for batch in batches),
        "all_measured_s": measured_s,
        "spread": _spread(measured_s),
        "ratio": median(predicted_s) / median(measured_s),
        "ratios": (predicted_s / np.median(in_rounds, axis=1)).tolist(),
        "predicted_stage_s": [
            [
                (s.predicted.prefill_s, s.predicted.decode_s)
                for s in found.stages
                if s.predicted
            ]
            for found in strategies
        ],
        "measured_stage_s": [(s.prefill_s, s.decode_s) for s in last],
        "idle_share": [s.idle_s / batches[-1].latency_s for s in last],
    }


def _spread(seconds: Sequence[float]) -> float:
    """Returns half the distance between the quartiles, over the median."""
    first, middle, third = np.percentile(seconds, [25, 50, 75]).tolist()
    return (third - first) / 2 / middle


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
