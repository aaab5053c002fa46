"""Sizes of layers that predictions of time are evaluated at, and the table of their seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.schema.measurements import PHASES, Phase
from llmpq_jax.schema.precision import USUAL_BITS, Bits
from llmpq_jax.tasks.example import MODEL
from tools.predictions.configs import architecture_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of one model's layer that are fitted, and those that are held out."""

    rows: tuple[int, ...]
    held_out_rows: tuple[int, ...]
    lengths: dict[Phase, tuple[int, ...]]
    held_out_lengths: dict[Phase, tuple[int, ...]]
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
    held_out_rows=(3, 5, 12, 24),
    lengths={"prefill": (32, 64, 128, 256), "decode": (64, 128, 256, 512)},
    held_out_lengths={"prefill": (48, 96, 192), "decode": (96, 192, 384)},
    num_layers=2,
)
_WIDE = Sizes(
    rows=(1, 2, 4, 8, 16),
    held_out_rows=(3, 5, 12),
    lengths={"prefill": (16, 32, 64, 128), "decode": (64, 128, 256, 512)},
    held_out_lengths={"prefill": (48, 96), "decode": (96, 192, 384)},
    num_layers=1,
)
MODELS: dict[str, Sizes] = {MODEL.name: _SMALL, "llama": _WIDE, "opt": _WIDE}


def architecture(model: str) -> Architecture:
    """Reads the shipped model's architecture, or one of `CONFIGS`."""
    if model == MODEL.name:
        return read_architecture(MODEL)
    return architecture_of(model)


def points_of(model: str) -> Iterator[Point]:
    """Yields every size of a model's layer, at every precision."""
    sizes = MODELS[model]
    for bits in USUAL_BITS:
        for phase in PHASES:
            for held_out, all_rows, lengths in (
                (False, sizes.rows, sizes.lengths),
                (True, sizes.held_out_rows, sizes.held_out_lengths),
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
    """Returns the micro-batch that times a size."""
    return Shape(rows=point.rows, num_tokens=point.length, num_slots=point.length)


def read_raw(raw: Path) -> dict[Point, list[float]]:
    """Returns the seconds of each size by round; empty if there is no file."""
    if not raw.exists():
        return {}
    rows = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
    return {_point(row): row["seconds"] for row in rows}


def _point(row: dict[str, Any]) -> Point:
    return Point(**{name: row[name] for name in Point.__dataclass_fields__})


def write_raw(raw: Path, samples: dict[Point, list[float]]) -> None:
    """Writes a line for each size, and replaces the file at once."""
    lines = [
        json.dumps({**asdict(point), "seconds": samples[point]}) for point in samples
    ]
    new = raw.with_name(raw.name + ".new")
    new.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    new.replace(raw)
