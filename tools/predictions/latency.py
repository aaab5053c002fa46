"""Foretold seconds of layers beside measured ones, at sizes that were left out.

    python -m tools.predictions.latency --rounds 4 --raw raw.jsonl --result result.json

A round goes once through all models, precisions, phases and sizes, in an order of its own,
so that whatever slows the machine for a while slows a part of everything. Rounds are added
to the raw table; what is judged is the median over all rounds in it, and the spread beside
the error is that from round to round. With `--rounds 0` programs are only compiled, ahead
of a quiet hour, and what the table holds is judged.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.costmodel.accuracy import held_out_accuracy
from llmpq_jax.costmodel.latency import fit_layer
from llmpq_jax.kernels import device_kernel_path
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.stage_bench import StageBench
from llmpq_jax.schema.measurements import Accuracy, LayerTime, Measurements, Phase
from llmpq_jax.schema.precision import ALL_BITS, Activations, Bits
from llmpq_jax.tasks.compile_cache import keep_compiled
from llmpq_jax.tasks.example import MODEL
from tools.predictions.memory import architecture_of
from tools.provenance import provenance

_ACTIVATIONS: Activations = "float32"
_PHASES: tuple[Phase, ...] = ("prefill", "decode")
# Of each visit to a size: at least so many calls that count, and so long.
_MIN_CALLS = 2
_VISIT_S = 0.008
STEADY = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Of one model's layer, those that are fitted and those that are left out."""

    rows: tuple[int, ...]
    rows_left_out: tuple[int, ...]
    lengths: dict[Phase, tuple[int, ...]]
    lengths_left_out: dict[Phase, tuple[int, ...]]
    num_layers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One size of one layer in one phase."""

    model: str
    bits: Bits
    phase: Phase
    rows: int
    length: int
    held_out: bool


_SMALL = Sizes(
    rows=(1, 2, 4, 8, 16, 32),
    rows_left_out=(3, 5, 12, 24),
    lengths={"prefill": (32, 64, 128, 256), "decode": (64, 128, 256, 512)},
    lengths_left_out={"prefill": (48, 96, 192), "decode": (96, 192, 384)},
    num_layers=2,
)
_WIDE = Sizes(
    rows=(1, 2, 4, 8, 16),
    rows_left_out=(3, 5, 12),
    lengths={"prefill": (16, 32, 64, 128), "decode": (64, 128, 256, 512)},
    lengths_left_out={"prefill": (48, 96), "decode": (96, 192, 384)},
    num_layers=1,
)
MODELS: dict[str, Sizes] = {MODEL.name: _SMALL, "llama": _WIDE, "opt": _WIDE}


def architecture(model: str) -> Architecture:
    """Reads the shipped model's config, or makes one of `memory.CONFIGS`."""
    if model == MODEL.name:
        return read_architecture(MODEL)
    return architecture_of(model)


def points_of(model: str) -> Iterator[Point]:
    """Yields every size of a model's layer, at every precision."""
    sizes = MODELS[model]
    for bits in ALL_BITS:
        for phase in _PHASES:
            for held_out, all_rows, lengths in (
                (False, sizes.rows, sizes.lengths),
                (True, sizes.rows_left_out, sizes.lengths_left_out),
            ):
                for rows in all_rows:
                    for length in lengths[phase]:
                        yield Point(
                            model=model,
                            bits=bits,
                            phase=phase,
                            rows=rows,
                            length=length,
                            held_out=held_out,
                        )


def shape_of(point: Point) -> Shape:
    """Returns the micro-batch that times it."""
    return Shape(rows=point.rows, num_tokens=point.length, num_slots=point.length)


def make_benches(points: list[Point]) -> dict[tuple[str, Bits], StageBench]:
    """Draws each layer at each precision, and compiles it for all its sizes."""
    shapes: dict[tuple[str, Bits], list[tuple[Phase, Shape]]] = defaultdict(list)
    for point in points:
        shapes[point.model, point.bits].append((point.phase, shape_of(point)))
    benches = {}
    for (model, bits), wanted in shapes.items():
        bench = StageBench(
            architecture(model),
            jax.devices()[0],
            activations=_ACTIVATIONS,
            group_size=128,
            num_layers=MODELS[model].num_layers,
            bits=bits,
        )
        bench.compile(wanted)
        benches[model, bits] = bench
        click.echo(f"compiled {len(wanted)} programs of {model} at {bits} bits")
    return benches


def visit(bench: StageBench, point: Point) -> float:
    """Returns the median seconds of a few calls in a row, of one layer."""
    call = bench.call(point.phase, shape_of(point))
    call()
    seconds: list[float] = []
    began_s = time.perf_counter()
    while len(seconds) < _MIN_CALLS or time.perf_counter() - began_s < _VISIT_S:
        started_s = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started_s)
    bench.free()
    return statistics.median(seconds) / MODELS[point.model].num_layers


def timed_round(
    number: int, benches: dict[tuple[str, Bits], StageBench], points: list[Point]
) -> dict[Point, float]:
    """Visits all sizes once, in an order of the round's own."""
    order = list(points)
    random.Random(number).shuffle(order)
    return {point: visit(benches[point.model, point.bits], point) for point in order}


def read_raw(raw: Path) -> dict[Point, list[float]]:
    """Returns each size's seconds, round by round; nothing where there is no file."""
    if not raw.exists():
        return {}
    rows = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    return {_point(row): row["seconds"] for row in rows}


def _point(row: dict[str, Any]) -> Point:
    return Point(**{name: row[name] for name in Point.__dataclass_fields__})


def write_raw(raw: Path, samples: dict[Point, list[float]]) -> None:
    """Writes a line for each size; an interruption leaves the file as it was."""
    lines = [
        json.dumps({**asdict(point), "seconds": samples[point]}) for point in samples
    ]
    new = raw.with_name(raw.name + ".new")
    new.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    new.replace(raw)


def layer_times(samples: dict[Point, list[float]]) -> tuple[LayerTime, ...]:
    """Makes measurements of a raw table: medians over its rounds."""
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


def judge(layers: tuple[LayerTime, ...]) -> tuple[Accuracy, ...]:
    """Foretells the rows that were left out, as `llmpq-jax profile` does."""
    return held_out_accuracy(
        Measurements(
            model="of this table",
            layer_shape="many",
            activations=_ACTIVATIONS,
            group_size=128,
            kinds=(),
            layers=layers,
            ends=(),
        )
    )


@click.command()
@click.option("--rounds", type=int, default=0, help="To add to the raw table.")
@click.option("--raw", type=click.Path(path_type=Path), required=True)
@click.option("--result", type=click.Path(path_type=Path), help="JSON, for the figure.")
def main(rounds: int, raw: Path, result: Path | None) -> None:
    """Measures, judges, prints."""
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
    judged = sorted(judge(rows), key=lambda row: (row.kind, row.phase, row.bits))
    for accuracy in judged:
        click.echo(
            f"{accuracy.kind:<13} {accuracy.phase:<7} {accuracy.bits:>2} bits  "
            f"{accuracy.num_held_out:>3} sizes  error {accuracy.mean_error:6.1%}  "
            f"largest {accuracy.largest_error:6.1%}  spread {accuracy.spread:6.1%}"
        )
    summary = summarise(rows, judged) | {
        "rounds": min(len(seconds) for seconds in samples.values())
    }
    click.echo(json.dumps(summary))
    if result is not None:
        each = [asdict(row) | {"law": law_of(row, rows)} for row in judged]
        text = json.dumps({**summary, "layers": each}, indent=1)
        result.write_text(text + "\n", encoding="utf-8")


def summarise(
    rows: tuple[LayerTime, ...], judged: Sequence[Accuracy]
) -> dict[str, Any]:
    """Returns the figure, over all sizes and over those the machine repeats steadily."""
    steady = tuple(row for row in rows if not row.held_out or row.spread <= STEADY)
    held_out = [row for row in rows if row.held_out]
    of_steady = judge(steady)
    return {
        "mean_error": _mean_error(judged),
        "sizes": sum(row.num_held_out for row in judged),
        "spread": statistics.fmean(row.spread for row in held_out),
        "mean_error_where_spread_is_at_most_3_percent": _mean_error(of_steady),
        "such_sizes": sum(row.num_held_out for row in of_steady),
        "cores": os.cpu_count(),
        "kernel_path": device_kernel_path(jax.devices()[0]),
        "activations": _ACTIVATIONS,
        **provenance("tools.predictions.latency"),
    }


def law_of(accuracy: Accuracy, rows: tuple[LayerTime, ...]) -> list[float]:
    """Returns the coefficients of a layer's law, in the order of its features."""
    key = (accuracy.kind, accuracy.phase, accuracy.bits)
    fitted = [
        row
        for row in rows
        if (row.kind, row.phase, row.bits) == key and not row.held_out
    ]
    law = fit_layer(accuracy.phase, fitted).coefficients
    return [float(f"{value:.4g}") for value in law]


def _mean_error(judged: Sequence[Accuracy]) -> float | None:
    """Returns the mean over all sizes; none where there is no size."""
    total = sum(row.num_held_out for row in judged)
    if total == 0:
        return None
    return sum(row.mean_error * row.num_held_out for row in judged) / total


if __name__ == "__main__":
    keep_compiled(Path("build"))
    main()
