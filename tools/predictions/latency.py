"""Predicted seconds of layers, compared with measured ones at held-out sizes.

    python -m tools.predictions.latency --rounds 4 --raw raw.jsonl --result result.json

A round times all models, precisions, phases and sizes once, in random order, so that a
machine that is slow for a while slows a part of all of them. Rounds are added to the raw
table. Predictions are compared with the median over all rounds of the table, and the spread
printed with the error is that between rounds. With `--rounds 0` the table is evaluated as it
is; if it is empty, programs are only compiled, to be timed later.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from llmpq_jax.costmodel.accuracy import held_out_accuracy
from llmpq_jax.costmodel.latency import fit_layer
from llmpq_jax.kernels import device_kernel_path
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.stage_bench import StageBench, StageContents
from llmpq_jax.schema.measurements import Accuracy, LayerTime, Measurements, Phase
from llmpq_jax.schema.precision import Activations, Bits
from llmpq_jax.tasks.compile_cache import keep_compiled
from tools.predictions.latency_points import (
    MODELS,
    Point,
    architecture,
    points_of,
    read_raw,
    shape_of,
    write_raw,
)
from tools.provenance import provenance

_ACTIVATIONS: Activations = "float32"
# Minimum calls and seconds of a size in a round.
_MIN_CALLS = 2
_MIN_S = 0.008
# Largest spread of sizes that the machine repeats steadily.
STEADY = 0.03


def make_benches(points: list[Point]) -> dict[tuple[str, Bits], StageBench]:
    """Draws each layer at each precision, and compiles it for all its sizes."""
    shapes: dict[tuple[str, Bits], list[tuple[Phase, Shape]]] = defaultdict(list)
    for point in points:
        shapes[point.model, point.bits].append((point.phase, shape_of(point)))
    benches = {}
    for (model, bits), wanted in shapes.items():
        bench = StageBench(
            architecture(model),
            jax.devices()[:1],
            StageContents(num_layers=MODELS[model].num_layers, bits=bits),
            activations=_ACTIVATIONS,
        )
        bench.compile(wanted)
        benches[model, bits] = bench
        click.echo(f"compiled {len(wanted)} programs of {model} at {bits} bits")
    return benches


def time_point(bench: StageBench, point: Point) -> float:
    """Returns the median seconds of one layer over a few calls in a row."""
    call = bench.call(point.phase, shape_of(point))
    call()
    seconds: list[float] = []
    began_s = time.perf_counter()
    while len(seconds) < _MIN_CALLS or time.perf_counter() - began_s < _MIN_S:
        started_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started_s)
    bench.free()
    return statistics.median(seconds) / MODELS[point.model].num_layers


def timed_round(
    number: int, benches: dict[tuple[str, Bits], StageBench], points: list[Point]
) -> dict[Point, float]:
    """Times all sizes once, in an order drawn from the round's number."""
    order = list(points)
    random.Random(number).shuffle(order)
    return {
        point: time_point(benches[point.model, point.bits], point) for point in order
    }


def layer_times(samples: dict[Point, list[float]]) -> tuple[LayerTime, ...]:
    """Returns the medians over the rounds of a raw table, as measurements."""
    rows = []
    for point, seconds in samples.items():
        first, median, third = np.percentile(seconds, [25, 50, 75]).tolist()
        rows.append(
            LayerTime(
                kind=point.model,
                phase=point.phase,
                bits=point.bits,
                held_out=point.held_out,
                batch=point.rows,
                length=point.length,
                seconds=median,
                spread=(third - first) / 2 / median,
                workspace_bytes=0,
            )
        )
    return tuple(rows)


def accuracy_of(layers: tuple[LayerTime, ...]) -> tuple[Accuracy, ...]:
    """Predicts the held-out rows, as `llmpq-jax profile` does."""
    return held_out_accuracy(
        Measurements(
            model="of this table",
            layer_shape="many",
            activations=_ACTIVATIONS,
            group_size=128,
            kinds=(),
            layers=layers,
            vocabulary_layers=(),
        )
    )


@click.command()
@click.option("--rounds", type=int, default=0, help="Rounds to add to the raw table.")
@click.option("--raw", type=click.Path(path_type=Path), required=True)
@click.option("--result", type=click.Path(path_type=Path), help="JSON, for the figure.")
def main(rounds: int, raw: Path, result: Path | None) -> None:
    """Measures, evaluates and prints."""
    points = [point for model in MODELS for point in points_of(model)]
    samples = read_raw(raw)
    if rounds or not samples:
        benches = make_benches(points)
        for _ in range(rounds):
            number = min(len(samples.get(point, ())) for point in points)
            for point, seconds in timed_round(number, benches, points).items():
                samples.setdefault(point, []).append(float(f"{seconds:.5g}"))
            write_raw(raw, samples)
            click.echo(f"round {number + 1}")
    if not samples:
        return
    rows = layer_times(samples)
    accuracies = sorted(
        accuracy_of(rows), key=lambda row: (row.kind, row.phase, row.bits)
    )
    for accuracy in accuracies:
        click.echo(
            f"{accuracy.kind:<13} {accuracy.phase:<7} {accuracy.bits:>2} bits  "
            f"{accuracy.num_held_out:>3} sizes  error {accuracy.mean_error:6.1%}  "
            f"largest {accuracy.largest_error:6.1%}  spread {accuracy.spread:6.1%}"
        )
    summary = summarise(rows, accuracies) | {
        "rounds": min(len(seconds) for seconds in samples.values())
    }
    click.echo(json.dumps(summary))
    if result is not None:
        each = [asdict(row) | {"law": law_of(row, rows)} for row in accuracies]
        text = json.dumps({**summary, "layers": each}, indent=1)
        result.write_text(text + "\n", encoding="utf-8")


def summarise(
    rows: tuple[LayerTime, ...], accuracies: Sequence[Accuracy]
) -> dict[str, Any]:
    """Returns the mean error over all held-out sizes, and over those with a small spread."""
    steady = tuple(row for row in rows if not row.held_out or row.spread <= STEADY)
    held_out = [row for row in rows if row.held_out]
    of_steady = accuracy_of(steady)
    return {
        "mean_error": _mean_error(accuracies),
        "sizes": sum(row.num_held_out for row in accuracies),
        "spread": statistics.fmean(row.spread for row in held_out),
        "mean_error_where_spread_is_at_most_3_percent": _mean_error(of_steady),
        "such_sizes": sum(row.num_held_out for row in of_steady),
        "cores": os.cpu_count(),
        "kernel_path": device_kernel_path(jax.devices()[0]),
        "activations": _ACTIVATIONS,
        **provenance("tools.predictions.latency"),
    }


def law_of(accuracy: Accuracy, rows: tuple[LayerTime, ...]) -> list[float]:
    """Returns the coefficients of a layer's fit, in the order of its features."""
    key = (accuracy.kind, accuracy.phase, accuracy.bits)
    fitted = [
        row
        for row in rows
        if (row.kind, row.phase, row.bits) == key and not row.held_out
    ]
    law = fit_layer(accuracy.phase, fitted).coefficients
    return [float(f"{value:.4g}") for value in law]


def _mean_error(accuracies: Sequence[Accuracy]) -> float | None:
    """Returns the mean over all sizes; None if there is none."""
    total = sum(row.num_held_out for row in accuracies)
    if total == 0:
        return None
    return sum(row.mean_error * row.num_held_out for row in accuracies) / total


if __name__ == "__main__":
    keep_compiled(Path("build"))
    main()
