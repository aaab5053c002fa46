"""What `generate` prints when it is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from llmpq_jax.batch.prompt import Prompt
from llmpq_jax.batch.result_line import Result, result_values
from llmpq_jax.report.console import print_line, print_table
from llmpq_jax.report.deviation import deviation_line
from llmpq_jax.report.lines import run_lines
from llmpq_jax.report.peaks import peaks_line
from llmpq_jax.report.tables import run_table
from llmpq_jax.report.texts import continued_text
from llmpq_jax.runtime.analysis.phase_times import phase_times
from llmpq_jax.tasks.generate import Served


def print_texts(results: Sequence[Result]) -> None:
    """Prints each prompt with its continuation, or why it has none."""
    for result in results:
        line = result.line
        if not isinstance(line, Prompt):
            print_line(f"── {line.custom_id}: {line}")
            print_line()
            continue
        for completion in result.completions:
            print_line(
                f"── {line.custom_id}: {len(completion.token_ids)} new tokens, "
                f"ended by {completion.finish_reason}"
            )
            print_line(continued_text(line.text, completion.text))
            print_line()


def print_run(served: Served) -> None:
    """Prints what was measured, compared with what was predicted."""
    strategy = served.strategy
    print_table(run_table(strategy, served.batches))
    for line in run_lines(strategy, served.batches):
        print_line(line)
    phases = [phase_times(strategy, batch) for batch in served.batches]
    for deviation in (
        deviation_line(strategy, phases),
        peaks_line(strategy, served.batches),
    ):
        if deviation is not None:
            print_line(deviation)


def print_json(results: Sequence[Result], served: Served, *, model: str) -> None:
    """Prints results, prediction and batches as JSON."""
    batches = [asdict(batch) for batch in served.batches]
    for batch in batches:
        del batch["events"]
    predicted = served.strategy.predicted
    values = {
        "results": [result_values(result, model=model) for result in results],
        "predicted": predicted and asdict(predicted),
        "batches": batches,
    }
    print_line(json.dumps(values, indent=2))
