"""`llmpq-jax generate`: runs a strategy on prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options.engine import ENGINE, EngineOptions
from llmpq_jax.cli.options.failures import FAILURES, FailureOptions
from llmpq_jax.cli.options.generation import (
    BATCH,
    RECORDS,
    SAMPLING,
    BatchOptions,
    RecordOptions,
    SamplingOptions,
)
from llmpq_jax.cli.options.option_group import command
from llmpq_jax.cli.options.problem import read_problem
from llmpq_jax.cli.options.shared import JSON, cache_home

if TYPE_CHECKING:
    from llmpq_jax.batch.prompt import BadLine, Prompt
    from llmpq_jax.batch.result_line import Result
    from llmpq_jax.batch.results_file import ResultsFile
    from llmpq_jax.runtime.engines.engine import DeviceFailedError
    from llmpq_jax.schema.strategy import Strategy


@command("generate", BATCH, SAMPLING, ENGINE, FAILURES, RECORDS, as_json=JSON)
def generate_command(
    batch: BatchOptions,
    sampling: SamplingOptions,
    engine: EngineOptions,
    failures: FailureOptions,
    records: RecordOptions,
    as_json: bool,
) -> None:
    """Continue prompts by running a strategy.

    It runs where the strategy's devices are. Continuations are printed, or written to
    --out as soon as each is complete, and then measured seconds next to predicted ones.
    """
    failures.check(engine=engine.engine, out=batch.out)
    start = engine.starter(restarts=failures.on_loss != "stop")

    from llmpq_jax.arch.model_folder import check_model_folder
    from llmpq_jax.batch.prompt_file import PromptFile, make_prompts
    from llmpq_jax.batch.result_line import result_values
    from llmpq_jax.cli.generate_output import print_and_write, printed_on_failure
    from llmpq_jax.report.console import log
    from llmpq_jax.schema.record_files import read_strategy
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.generate import ServeSettings, serve_prompts

    lines = (
        make_prompts(batch.texts, sampling.defaults)
        if batch.prompts_path is None
        else PromptFile(batch.prompts_path, sampling.defaults, on_note=log)
    )
    strategy = read_strategy(batch.strategy_path)
    # Before a file of results is begun.
    check_model_folder(Path(strategy.model.path))
    model = Path(strategy.model.path).resolve().name
    keep_compiled(cache_home())
    settings = ServeSettings(
        start=start,
        is_chat=sampling.chat,
        ignores_eos=sampling.ignore_eos,
        keeps_events=any((records.record, records.trace, records.timeline)),
        restarts_unfinished=failures.restart_unfinished,
    )
    shown: list[Result] = []
    with _results_file(batch, strategy, lines, sampling) as file:

        def on_result(result: Result) -> None:
            if file is not None:
                file.add(result_values(result, model=model))
            if file is None or as_json:
                shown.append(result)

        with printed_on_failure([] if as_json else shown):
            served = serve_prompts(
                strategy,
                lines,
                settings,
                is_done=(lambda _: False) if file is None else file.has,
                on_result=on_result,
                solve_again=_replanner(batch, strategy, failures, file),
            )
        print_and_write(
            served,
            shown,
            batch.out,
            records,
            command_as_typed(),
            model if as_json else None,
        )
    served.check(batch.out, num_kept_errors=file.num_kept_errors if file else 0)


@contextmanager
def _results_file(
    batch: BatchOptions,
    strategy: Strategy,
    lines: Iterable[Prompt | BadLine],
    sampling: SamplingOptions,
) -> Iterator[ResultsFile | None]:
    """Opens the file that --out names; yields None if it names none."""
    from llmpq_jax.batch.manifest import make_manifest
    from llmpq_jax.batch.results_file import ResultsFile
    from llmpq_jax.report.console import log
    from llmpq_jax.units import counted

    if batch.out is None:
        yield None
        return
    manifest = make_manifest(
        strategy,
        lines,
        sampling.defaults,
        is_chat=sampling.chat,
        ignores_eos=sampling.ignore_eos,
    )
    if_exists = "resume" if batch.resume else "replace" if batch.overwrite else "refuse"
    with ResultsFile(batch.out, if_exists=if_exists, manifest=manifest) as file:
        if file.num_kept:
            log(f"continuing {batch.out}, which has {counted(file.num_kept, 'result')}")
        yield file


def _replanner(
    batch: BatchOptions,
    strategy: Strategy,
    failures: FailureOptions,
    file: ResultsFile | None,
) -> Callable[[DeviceFailedError], Strategy] | None:
    """Returns what solves again after a failure; None unless --on-loss asks for it."""
    if failures.on_loss != "resolve":
        return None
    from llmpq_jax.tasks.replan import make_replanner

    assert batch.out is not None
    assert file is not None
    return make_replanner(
        batch.strategy_path,
        strategy,
        sources=failures.sources,
        read_problem=partial(
            read_problem, Path(strategy.model.path), strategy.workload
        ),
        command=command_as_typed(),
        out=batch.out,
        on_strategy=file.add_strategy,
    )
