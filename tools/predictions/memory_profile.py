"""Workspace of stages at a few shapes, as the profiler measures it, for memory predictions."""

from __future__ import annotations

import datetime
from functools import cache, partial

import jax

from llmpq_jax.costmodel.latency import VocabularyLayer
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.stage_bench import StageBench, StageContents
from llmpq_jax.schema.measurements import (
    PHASES,
    LayerTime,
    MeasuredKind,
    Measurements,
    VocabularyLayerTime,
)
from llmpq_jax.schema.precision import Bits, HeadBits, KvBits
from tools.predictions.configs import architecture_of

KIND = "here"
LENGTHS = ((32, 64), (448, 512), (640, 704), (1024, 1280), (1024, 2048))
_THIS_KIND = MeasuredKind(
    kind=KIND,
    device="this machine's processor",
    platform="cpu",
    jax_version=jax.__version__,
    kernel_path="asked of the compiler",
    date=datetime.datetime.now(datetime.UTC).date().isoformat(),
)
_ROWS = (1, 6)
_STACKED = 2


def workspace_measurements(
    family: str, bits: tuple[Bits, ...], *, kv_bits: KvBits, tensor: int
) -> Measurements:
    """Returns workspace of a family's layers at some bits, of its embedding and head.

    Nothing is timed: all seconds are 1.
    """
    return Measurements(
        model="random",
        layer_shape="any",
        activations="float32",
        group_size=128,
        kinds=(_THIS_KIND,),
        layers=tuple(
            row
            for each in sorted(set(bits))
            for row in _layers(family, each, kv_bits, tensor)
        ),
        vocabulary_layers=_vocabulary_layers(family),
    )


@cache
def _layers(
    family: str, bits: Bits, kv_bits: KvBits, tensor: int
) -> tuple[LayerTime, ...]:
    bench = StageBench(
        architecture_of(family),
        jax.devices()[:tensor],
        StageContents(num_layers=_STACKED, bits=bits),
        activations="float32",
        kv_bits=kv_bits,
    )
    shapes = [
        Shape(rows=rows, num_tokens=tokens, num_slots=slots)
        for rows in _ROWS
        for tokens, slots in LENGTHS
    ]
    bench.compile((phase, shape) for phase in PHASES for shape in shapes)
    return tuple(
        LayerTime(
            kind=KIND,
            phase=phase,
            bits=bits,
            tensor=tensor,
            kv_bits=kv_bits,
            batch=shape.rows,
            length=shape.num_tokens if phase == "prefill" else shape.num_slots,
            slots=shape.num_slots
            if phase == "prefill" and shape.num_chunks > 1
            else None,
            seconds=1.0,
            spread=0.0,
            workspace_bytes=bench.workspace_bytes(phase, shape),
        )
        for phase in PHASES
        for shape in shapes
    )


@cache
def _vocabulary_layers(family: str) -> tuple[VocabularyLayerTime, ...]:
    rows: list[VocabularyLayerTime] = []
    make = partial(
        StageBench,
        architecture_of(family),
        jax.devices()[:1],
        activations="float32",
    )
    heads: tuple[HeadBits, ...] = (16, 8)
    benches: list[tuple[VocabularyLayer, HeadBits, StageBench, tuple[int, ...]]] = []
    benches.append(
        ("embedding", 16, make(StageContents(has_embedding=True)), (1, 6 * 448))
    )
    benches.extend(
        ("head", bits, make(StageContents(bits=bits, has_head=True)), (1, 6))
        for bits in heads
    )
    for part, bits, bench, sizes in benches:
        for size in sizes:
            shape = Shape(rows=size, num_tokens=1, num_slots=1)
            rows.append(
                VocabularyLayerTime(
                    kind=KIND,
                    part=part,
                    bits=bits,
                    rows=size,
                    seconds=1.0,
                    spread=0.0,
                    workspace_bytes=bench.workspace_bytes("prefill", shape),
                )
            )
    return tuple(rows)
