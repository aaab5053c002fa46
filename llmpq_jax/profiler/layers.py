"""Times decoder layers, the embedding and the head on one device.

A stage is timed as the engine drives it, with one call per micro-batch. The dispatch
overhead of that call is charged once to each stage of a plan
(`profiler.dispatch_overhead`), so it is subtracted here:

    layer = (T(stack of layers) − back-to-back overhead) / layers
    embedding or head = T(stage of it alone) − T(empty stage)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby, product

from llmpq_jax.costmodel.accuracy import held_out_accuracy
from llmpq_jax.costmodel.latency import VocabularyLayer
from llmpq_jax.profiler.dispatch_overhead import measured_overhead
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.session import Session
from llmpq_jax.profiler.stage_bench import StageContents
from llmpq_jax.schema.measurements import PHASES, LayerTime, Phase, VocabularyLayerTime
from llmpq_jax.schema.precision import Bits, HeadBits
from llmpq_jax.stage.emulated_devices import JaxDevice

_EMPTY = Shape(rows=1, num_tokens=1, num_slots=1)


def measure_layers(session: Session, kind: str, devices: Sequence[JaxDevice]) -> None:
    """Times a layer at each width, precision, phase and shape that is still missing.

    The devices are equal and of one node; a width takes as many of the first as it needs.
    """
    widths = served_widths(session, len(devices))
    # Files of a profiler that left the overhead in the layers have none.
    overhead = measured_overhead(session, kind)
    overhead_s = overhead.back_to_back_seconds if overhead else 0.0
    for tensor, bits in product(widths, session.options.bits):
        missing = missing_layers(session, kind, bits, tensor=tensor)
        if not missing:
            continue
        bench = session.bench(
            devices[:tensor], StageContents(num_layers=session.num_stacked, bits=bits)
        )
        bench.compile((phase, shape) for (phase, _, _), shape in missing.items())
        over = f" over {tensor} devices" if tensor > 1 else ""
        wanted: dict[tuple[Phase, int, int], tuple[Phase, Shape, str]] = {
            (phase, rows, length): (
                phase,
                shape,
                f"{kind}: {phase} of {rows} × {length} at {bits} bits{over}",
            )
            for (phase, rows, length), shape in missing.items()
        }
        for key, timing, workspace_bytes in session.time(bench, wanted):
            (phase, rows, length), shape = key, missing[key]
            # Never all of it, so that predictions stay above 0.
            layers_s = max(timing.seconds - overhead_s, timing.seconds / 10)
            session.journal.add(
                LayerTime(
                    kind=kind,
                    phase=phase,
                    bits=bits,
                    tensor=tensor,
                    kv_bits=session.options.kv_bits,
                    held_out=shape in session.options.grid.held_out,
                    batch=rows,
                    length=length,
                    slots=shape.num_slots
                    if phase == "prefill" and shape.num_chunks > 1
                    else None,
                    seconds=layers_s / session.num_stacked,
                    spread=timing.spread * timing.seconds / layers_s,
                    workspace_bytes=workspace_bytes,
                )
            )


def measure_vocabulary_layers(session: Session, kind: str, device: JaxDevice) -> None:
    """Times the embedding and the head at their precisions, if still missing."""
    missing = missing_vocabulary_layers(session, kind)
    if not missing:
        return
    empty = session.bench((device,), StageContents()).call("prefill", _EMPTY)
    for (part, bits), sizes in groupby(missing, key=lambda each: each[:2]):
        shapes = [Shape(rows=rows, num_tokens=1, num_slots=1) for *_, rows in sizes]
        contents = StageContents(
            bits=bits, has_embedding=part == "embedding", has_head=part == "head"
        )
        bench = session.bench((device,), contents)
        bench.compile(("prefill", shape) for shape in shapes)
        wanted: dict[int, tuple[Phase, Shape, str]] = {
            shape.rows: (
                "prefill",
                shape,
                f"{kind}: {part} of {shape.rows} at {bits} bits",
            )
            for shape in shapes
        }
        for rows, timing, workspace_bytes in session.time(
            bench, wanted, baseline=empty
        ):
            session.journal.add(
                VocabularyLayerTime(
                    kind=kind,
                    part=part,
                    bits=bits,
                    rows=rows,
                    seconds=timing.seconds,
                    spread=timing.spread,
                    workspace_bytes=workspace_bytes,
                )
            )


def missing_vocabulary_layers(
    session: Session, kind: str
) -> list[tuple[VocabularyLayer, HeadBits, int]]:
    """Returns part, bits and rows of what is still missing, in order of part and bits."""
    grid = session.options.grid
    plain: list[HeadBits] = [16, 32] if 32 in session.options.bits else [16]
    planned: list[tuple[VocabularyLayer, HeadBits, int]] = [
        *(("embedding", bits, rows) for bits in plain for rows in grid.embedding_rows),
        *(("head", bits, rows) for bits in (*plain, 8) for rows in grid.head_rows),
    ]
    held = session.journal.measurements.vocabulary_layers
    return [
        (part, bits, rows)
        for part, bits, rows in planned
        if not session.journal.holds(held, kind=kind, part=part, bits=bits, rows=rows)
    ]


def served_widths(session: Session, num_devices: int) -> tuple[int, ...]:
    """Returns the widths that this number of devices allows."""
    return tuple(
        width for width in session.options.tensor_widths if width <= num_devices
    )


def missing_layers(
    session: Session, kind: str, bits: Bits, *, tensor: int
) -> dict[tuple[Phase, int, int], Shape]:
    """Returns the shape that times each (phase, rows, length), in random order.

    A machine that is slow for a while then slows various sizes, held-out ones among them,
    and adds no trend over sizes.
    """
    held = session.journal.measurements.layers
    missing: dict[tuple[Phase, int, int], Shape] = {}
    for shape in (*session.options.grid.shapes, *session.options.grid.held_out):
        for phase in PHASES:
            length = shape.num_tokens if phase == "prefill" else shape.num_slots
            same = {
                "kind": kind,
                "phase": phase,
                "bits": bits,
                "tensor": tensor,
                "kv_bits": session.options.kv_bits,
                "batch": shape.rows,
                "length": length,
            }
            if shape not in session.options.grid.held_out:
                # A size that was held out and is now fitted is measured again.
                same["held_out"] = False
            if not session.journal.holds(held, **same):
                missing.setdefault((phase, shape.rows, length), shape)
    keys = list(missing)
    random.Random(0).shuffle(keys)
    return {key: missing[key] for key in keys}


def record_held_out_accuracy(session: Session) -> None:
    """Adds how well held-out measurements are predicted, if it is not recorded yet."""
    for accuracy in held_out_accuracy(session.journal.measurements):
        if accuracy not in session.journal.measurements.accuracy:
            session.journal.add(accuracy)
