"""A run as a trace for Perfetto or chrome://tracing: one row per stage.

The format is the Trace Event Format: "M" events name rows, "X" events are spans with a
start and a duration in microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_jax.files import json_text, write_text
from llmpq_jax.report.names import devices_text, layers_text
from llmpq_jax.schema.strategy import Strategy

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.run_record import BatchRecord
    from llmpq_jax.stage.message import StageEvent


def write_trace(
    path: Path,
    strategy: Strategy,
    batches: Sequence[BatchRecord],
    predicted: Sequence[BatchRecord] = (),
) -> None:
    """Writes batches served one after the other, to open with https://ui.perfetto.dev.

    Predicted batches are shown as a second process.
    """
    name = f"llmpq-jax {strategy.model.path}"
    events = _rows(strategy, batches, 1, name)
    if predicted:
        events += _rows(strategy, predicted, 2, f"{name}, as predicted")
    trace = {"traceEvents": events, "displayTimeUnit": "ms"}
    write_text(path, json_text(trace) + "\n")


def _rows(
    strategy: Strategy, batches: Sequence[BatchRecord], process: int, name: str
) -> list[dict[str, Any]]:
    events = [_named("process_name", process, 0, name=name)]
    for number, stage in enumerate(strategy.stages):
        where = f"stage {number}: {devices_text(stage)}, layers {layers_text(stage)}"
        events += [
            _named("thread_name", process, number, name=where),
            _named("thread_sort_index", process, number, sort_index=number),
        ]
    offset_s = 0.0
    for number, batch in enumerate(batches):
        events += [_span(event, process, number, offset_s) for event in batch.events]
        offset_s += batch.latency_s
    return events


def _span(
    event: StageEvent, process: int, batch: int, offset_s: float
) -> dict[str, Any]:
    name = f"{event.phase} micro-batch {event.micro_batch}"
    if event.phase == "decode":
        name += f" step {event.step}"
    elif event.step:
        name += f" chunk {event.step}"
    return {
        "ph": "X",
        "name": name,
        "cat": event.phase,
        "pid": process,
        "tid": event.stage,
        "ts": (offset_s + event.started_s) * 1e6,
        "dur": (event.ended_s - event.started_s) * 1e6,
        "args": {
            "batch": batch,
            "micro_batch": event.micro_batch,
            "step": event.step,
            "waited_us": (event.started_s - event.received_s) * 1e6,
        },
    }


def _named(what: str, process: int, row: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": row, "args": args}
