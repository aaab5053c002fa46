"""What `explain --run` does: compares a run with its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from llmpq_jax.files import write_outputs
from llmpq_jax.report.console import (
    log,
    print_json,
    print_line,
    print_paths,
    print_table,
)
from llmpq_jax.report.deviation import deviation_line, deviation_table
from llmpq_jax.report.lines import run_lines
from llmpq_jax.report.memory import peaks_line, peaks_table
from llmpq_jax.report.tables import run_table
from llmpq_jax.report.timeline import write_timeline
from llmpq_jax.report.trace import write_trace
from llmpq_jax.runtime.analysis.phase_times import StagePhase, phase_times
from llmpq_jax.runtime.analysis.predicted_timeline import predicted_batch
from llmpq_jax.runtime.analysis.run_file import read_run
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.schema.strategy import StagePrediction, Strategy


def explain_run(
    path: Path, *, picture: Path | None, trace: Path | None, as_json: bool
) -> None:
    """Compares a run with its prediction, as tables, picture and trace."""
    if picture is not None and picture.suffix not in {".png", ".svg"}:
        msg = f"--picture {picture}: expected a name that ends in .png or .svg"
        raise click.UsageError(msg)
    run = read_run(path)
    strategy, batches = run.strategy, run.batches
    predicted = [predicted_batch(strategy, batch) for batch in batches]
    known = [batch for batch in predicted if batch is not None]

    def write() -> None:
        writers: list[Callable[[], None]] = []
        if picture is not None:
            last = batches[-1], predicted[-1]
            writers.append(partial(write_timeline, picture, strategy, *last))
        if trace is not None:
            writers.append(partial(write_trace, trace, strategy, batches, known))
        write_outputs(writers)

    if not known:
        log("the strategy predicts nothing of its stages: the run is shown alone")
    phases = [phase_times(strategy, batch) for batch in batches]
    if as_json:
        values = {
            "run": str(path),
            "command": run.command,
            "date": run.date,
            "batches": [
                _batch_values(strategy, batch, ahead, own)
                for batch, ahead, own in zip(batches, predicted, phases, strict=True)
            ],
        }
        print_json(values)
        write()
        return
    print_table(run_table(strategy, batches))
    print_table(deviation_table(strategy, phases))
    print_table(peaks_table(strategy, batches))
    for line in run_lines(strategy, batches):
        print_line(line)
    for deviation in (deviation_line(strategy, phases), peaks_line(strategy, batches)):
        if deviation is not None:
            print_line(deviation)
    write()
    print_paths(picture=picture, trace=trace)


def _batch_values(
    strategy: Strategy,
    batch: BatchRecord,
    predicted: BatchRecord | None,
    phases: Sequence[StagePhase],
) -> dict[str, Any]:
    """Returns a batch and its prediction as plain values."""
    return {
        "num_requests": batch.num_requests,
        "num_new_tokens": batch.num_new_tokens,
        "prefill_s": batch.prefill_s,
        "decode_s": batch.decode_s,
        "replayed_prefill_s": predicted and predicted.prefill_s,
        "replayed_decode_s": predicted and predicted.decode_s,
        "phases": [{**asdict(phase), "ratio": phase.ratio} for phase in phases],
        "memory": [
            {
                "stage": times.stage,
                "predicted": stage.predicted and _memory(stage.predicted),
                "peak": times.peak and asdict(times.peak),
            }
            for stage, times in zip(strategy.stages, batch.stages, strict=True)
        ],
    }


def _memory(predicted: StagePrediction) -> dict[str, Any]:
    """Returns the bytes of a prediction as plain values."""
    return {
        "memory_bytes": predicted.memory_bytes,
        "allowed_bytes": predicted.allowed_bytes,
        **(asdict(predicted.memory) if predicted.memory else {}),
    }
