"""What `generate` writes and prints when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from llmpq_jax.batch.prompt import Prompt
from llmpq_jax.batch.result_line import Result, result_values
from llmpq_jax.cli.options.generation import RecordOptions
from llmpq_jax.errors import LlmpqError
from llmpq_jax.report.console import (
    log,
    print_json,
    print_line,
    print_paths,
    print_table,
)
from llmpq_jax.report.deviation import deviation_line
from llmpq_jax.report.lines import run_lines
from llmpq_jax.report.memory import peaks_line
from llmpq_jax.report.names import continued_text
from llmpq_jax.report.tables import run_table
from llmpq_jax.runtime.analysis.phase_times import phase_times
from llmpq_jax.tasks.generate import Served, write_records


def print_and_write(
    served: Served,
    results: Sequence[Result],
    out: Path | None,
    records: RecordOptions,
    command: str,
    json_model: str | None,
) -> None:
    """Prints the results of a run, then writes its records and prints where they are.

    With `json_model`, the name of the model, results are printed as JSON.
    """
    batches = served.batches
    paths = {"record": records.record, "trace": records.trace}
    paths["timeline"] = records.timeline
    if json_model is not None:
        predicted = served.strategy.predicted
        values = {
            "results": [
                result_values(result, model=json_model)
                for result in sorted(results, key=lambda result: result.line.number)
            ],
            "predicted": predicted and asdict(predicted),
            "batches": [_without_events(asdict(batch)) for batch in batches],
        }
        print_json(values)
    elif batches:
        _print_texts(results)
        _print_run(served)
    if batches:
        write_records(served, command=command, **paths)
    if json_model is not None:
        return
    if batches:
        print_paths(results=out, run_record=paths.pop("record"), **paths)
    elif served.bad_lines is None:
        log("every prompt has its result: there is nothing to do")


@contextmanager
def printed_on_failure(results: Sequence[Result]) -> Iterator[None]:
    """Prints results that are held in memory alone, if the run fails before its end."""
    try:
        yield
    except LlmpqError:
        _print_texts(results)
        raise


def _without_events(batch: dict[str, object]) -> dict[str, object]:
    del batch["events"]
    return batch


def _print_texts(results: Sequence[Result]) -> None:
    """Prints each prompt with its continuation, or why it has none, in their order."""
    for result in sorted(results, key=lambda result: result.line.number):
        line = result.line
        if not isinstance(line, Prompt):
            print_line(f"── {line.custom_id}: {line}\n")
            continue
        for index, completion in enumerate(result.completions):
            print_line(
                f"── {line.custom_id}: {len(completion.token_ids)} new tokens, "
                f"ended by {completion.finish_reason}"
            )
            text = continued_text(line.text_of(index), completion.text)
            print_line(f"{text}\n")


def _print_run(served: Served) -> None:
    """Prints what was measured, compared with what was predicted."""
    strategy, batches = served.strategy, served.batches
    print_table(run_table(strategy, batches))
    for line in run_lines(strategy, batches):
        print_line(line)
    phases = [phase_times(strategy, batch) for batch in batches]
    for deviation in (deviation_line(strategy, phases), peaks_line(strategy, batches)):
        if deviation is not None:
            print_line(deviation)
