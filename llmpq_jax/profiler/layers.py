"""Times layers and both ends of a model on one device.

What is timed is a stage as the engine drives it, its one call per micro-batch included.
That call costs something whatever the stage holds, and each stage of a plan is charged for
it once (`profiler.dispatch_overhead`), so neither layers nor ends carry it:

    layer = (T(stack of layers) − call at once) / layers
    end   = T(stage of this end alone) − T(empty stage)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby, product
from typing import Literal

from llmpq_jax.costmodel.accuracy import held_out_accuracy
from llmpq_jax.profiler.dispatch_overhead import back_to_back_s
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.session import Session
from llmpq_jax.schema.measurements import PHASES, EndTime, LayerTime, Phase
from llmpq_jax.schema.precision import Bits, HeadBits
from llmpq_jax.stage.emulated_devices import JaxDevice

Part = Literal["embedding", "head"]
_EMPTY = Shape(rows=1, num_tokens=1, num_slots=1)


def measure_layers(session: Session, kind: str, devices: Sequence[JaxDevice]) -> None:
    """Times a layer at each width, precision, phase and shape that is still missing.

    Args:
        session: The profile.
        kind: Of the devices.
        devices: Equal ones of a node; the first of them are taken.
    """
    widths = served_widths(session, len(devices))
    call_s = back_to_back_s(session, kind)
    for tensor, bits in product(widths, session.bits):
        missing = missing_layers(session, kind, bits, tensor=tensor)
        if not missing:
            continue
        bench = session.bench(
            *devices[:tensor], num_layers=session.num_stacked, bits=bits
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
            # Never all of it: what is foretold stays above 0.
            layers_s = max(timing.seconds - call_s, timing.seconds / 10)
            session.journal.add(
                LayerTime(
                    kind=kind,
                    phase=phase,
                    bits=bits,
                    tensor=tensor,
                    kv_bits=session.kv_bits,
                    held_out=shape in session.grid.held_out,
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


def measure_ends(session: Session, kind: str, device: JaxDevice) -> None:
    """Times the embedding, and the head at both precisions, where still missing."""
    missing = missing_ends(session, kind)
    if not missing:
        return
    empty = session.bench(device).call("prefill", _EMPTY)
    for (part, bits), same_end in groupby(missing, key=lambda end: end[:2]):
        shapes = [Shape(rows=end[2], num_tokens=1, num_slots=1) for end in same_end]
        bench = session.bench(
            device,
            bits=bits,
            has_embedding=part == "embedding",
            has_head=part == "head",
        )
        bench.compile(("prefill", shape) for shape in shapes)
        wanted: dict[int, tuple[Phase, Shape, str]] = {
            shape.rows: (
                "prefill",
                shape,
                f"{kind}: {part} of {shape.rows} at {bits} bits",
            )
            for shape in shapes
        }
        for rows, timing, workspace_bytes in session.time(bench, wanted, less=empty):
            session.journal.add(
                EndTime(
                    kind=kind,
                    part=part,
                    bits=bits,
                    rows=rows,
                    seconds=timing.seconds,
                    spread=timing.spread,
                    workspace_bytes=workspace_bytes,
                )
            )


def missing_ends(session: Session, kind: str) -> list[tuple[Part, HeadBits, int]]:
    """Returns part, bits and rows of what is still missing, rows of an end together."""
    planned: list[tuple[Part, HeadBits, int]] = [
        *(("embedding", 16, rows) for rows in session.grid.embedding_rows),
        *(("head", 16, rows) for rows in session.grid.head_rows),
        *(("head", 8, rows) for rows in session.grid.head_rows),
    ]
    held = session.journal.measurements.ends
    return [
        (part, bits, rows)
        for part, bits, rows in planned
        if not session.journal.holds(held, kind=kind, part=part, bits=bits, rows=rows)
    ]


def served_widths(session: Session, num_devices: int) -> tuple[int, ...]:
    """Returns the widths that so many devices allow."""
    return tuple(width for width in session.tensor_widths if width <= num_devices)


def missing_layers(
    session: Session, kind: str, bits: Bits, *, tensor: int
) -> dict[tuple[Phase, int, int], Shape]:
    """Returns by (phase, rows, length) which shape times it, in no order.

    What slows the machine for a while so slows sizes of all sorts, those held out among
    them, and is no trend over sizes.
    """
    held = session.journal.measurements.layers
    missing: dict[tuple[Phase, int, int], Shape] = {}
    for shape in (*session.grid.shapes, *session.grid.held_out):
        for phase in PHASES:
            length = shape.num_tokens if phase == "prefill" else shape.num_slots
            same = {
                "kind": kind,
                "phase": phase,
                "bits": bits,
                "tensor": tensor,
                "kv_bits": session.kv_bits,
                "batch": shape.rows,
                "length": length,
            }
            if shape not in session.grid.held_out:
                # Once held out, a size that is now to be fitted is measured again.
                same["held_out"] = False
            if not session.journal.holds(held, **same):
                missing.setdefault((phase, shape.rows, length), shape)
    keys = list(missing)
    random.Random(0).shuffle(keys)
    return {key: missing[key] for key in keys}


def judge_layers(session: Session) -> None:
    """Writes how well held-out sizes are foretold, where that is not known yet."""
    for accuracy in held_out_accuracy(session.journal.measurements):
        if accuracy not in session.journal.measurements.accuracy:
            session.journal.add(accuracy)
