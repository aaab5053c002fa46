"""What `explain --run` does: a run beside its prediction."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from llmpq_jax.report.console import log, print_line, print_table
from llmpq_jax.report.deviation import deviation_line, deviation_table
from llmpq_jax.report.lines import run_lines
from llmpq_jax.report.peaks import peaks_line, peaks_table
from llmpq_jax.report.tables import run_table
from llmpq_jax.report.timeline import write_comparison, write_timeline
from llmpq_jax.report.trace import write_trace
from llmpq_jax.runtime.analysis.phase_times import phase_times
from llmpq_jax.runtime.analysis.predicted_timeline import predicted_batch
from llmpq_jax.runtime.analysis.run_file import read_run
from llmpq_jax.schema.strategy import StagePrediction


def explain_run(
    path: Path, *, picture: Path | None, trace: Path | None, as_json: bool
) -> None:
    """Puts a run beside its prediction, as tables, and as picture and trace if asked.

    Raises:
        UsageError: The picture's name ends in no format.
        SpecError: The record cannot be read.
    """
    if picture is not None and picture.suffix not in {".png", ".svg"}:
        msg = f"--picture {picture}: expected a name that ends in .png or .svg"
        raise click.UsageError(msg)
    run = read_run(path)
    strategy, batches = run.strategy, run.batches
    phases = [phase_times(strategy, batch) for batch in batches]
    foretold = [predicted_batch(strategy, batch) for batch in batches]
    told = [batch for batch in foretold if batch is not None]
    if picture is not None:
        if foretold[-1] is None:
            write_timeline(picture, strategy, batches[-1])
        else:
            write_comparison(picture, strategy, foretold[-1], batches[-1])
    if trace is not None:
        write_trace(trace, strategy, batches, told)
    if not told:
        log("the strategy predicts nothing of its stages: the run is shown alone")
    if as_json:
        values = {
            "run": str(path),
            "command": run.command,
            "date": run.date,
            "batches": [
                {
                    "num_requests": batch.num_requests,
                    "num_new_tokens": batch.num_new_tokens,
                    "prefill_s": batch.prefill_s,
                    "decode_s": batch.decode_s,
                    "replayed_prefill_s": ahead and ahead.prefill_s,
                    "replayed_decode_s": ahead and ahead.decode_s,
                    "phases": [
                        {**asdict(phase), "ratio": phase.ratio} for phase in own
                    ],
                    "memory": [
                        {
                            "stage": times.stage,
                            "predicted": stage.predicted and _memory(stage.predicted),
                            "peak": times.peak and asdict(times.peak),
                        }
                        for stage, times in zip(
                            strategy.stages, batch.stages, strict=True
                        )
                    ],
                }
                for batch, ahead, own in zip(batches, foretold, phases, strict=True)
            ],
        }
        print_line(json.dumps(values, indent=2))
        return
    print_table(run_table(strategy, batches))
    print_table(deviation_table(strategy, phases))
    print_table(peaks_table(strategy, batches))
    for line in run_lines(strategy, batches):
        print_line(line)
    for deviation in (deviation_line(strategy, phases), peaks_line(strategy, batches)):
        if deviation is not None:
            print_line(deviation)
    for what, written in (("picture", picture), ("trace", trace)):
        if written is not None:
            print_line(f"{what:<12} {written}")


def _memory(predicted: StagePrediction) -> dict[str, Any]:
    """Returns the predicted bytes alone."""
    return {
        "memory_bytes": predicted.memory_bytes,
        "allowed_bytes": predicted.allowed_bytes,
        **(asdict(predicted.memory) if predicted.memory else {}),
    }
