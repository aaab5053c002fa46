"""Prompts in, results out: loads a strategy, serves, and keeps the records."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmpq_jax import __version__
from llmpq_jax.arch.fingerprint import plan_name, strategy_fingerprint
from llmpq_jax.batch.progress import Progress, RequestKey
from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.batch.reader import RequestReader
from llmpq_jax.batch.results import Result
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.errors import RequestError
from llmpq_jax.report.console import progress_bar
from llmpq_jax.report.timeline import write_timeline
from llmpq_jax.report.trace import write_trace
from llmpq_jax.runtime.analysis.phase_times import phase_times
from llmpq_jax.runtime.analysis.run_record import BatchRecord, write_run_record
from llmpq_jax.runtime.engines.engine import DeviceFailedError, StartEngine
from llmpq_jax.runtime.engines.local import start_local
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Request
from llmpq_jax.runtime.workload_summary import WorkloadSummary, summarize_workload
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import to_toml
from llmpq_jax.tasks.kernel_notice import note_missing_kernels


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What came of a run.

    Attributes:
        strategy: That ran last: the one that was given, unless a device went.
        bad_lines: Of the lines that could not be, the first one and how many.
        batches: What each batch did when under it; none where nothing could be served.
    """

    strategy: Strategy
    bad_lines: tuple[BadLine, int] | None
    batches: tuple[BatchRecord, ...]

    def check(self, results: Path | None, *, num_kept_errors: int = 0) -> None:
        """Fails if there were bad lines, once all else is done.

        Args:
            results: The file that says what is wrong with each.
            num_kept_errors: Bad lines that earlier runs of the job told of there.

        Raises:
            RequestError: There were; the message is that of the first.
        """
        if self.bad_lines is not None:
            first, count = self.bad_lines
            more = count - 1 + num_kept_errors
            told = "" if results is None else f": {results} says what of each"
            lines = "line" if more == 1 else "lines"
            msg = f"{first} (and {more} more {lines}{told})" if more else str(first)
            raise RequestError(msg)
        if num_kept_errors:
            msg = f"results {results}: {num_kept_errors} lines could not be served by earlier runs: their results say why"
            raise RequestError(msg)


def serve_prompts(
    strategy: Strategy,
    lines: Iterable[Prompt | BadLine],
    *,
    start: StartEngine | None = None,
    weights_cache: WeightsCache | None = None,
    is_chat: bool = False,
    ignores_eos: bool = False,
    keeps_events: bool = True,
    is_done: Callable[[str], bool] = lambda _: False,
    on_result: Callable[[Result], None] = lambda _: None,
    solve_again: Callable[[DeviceFailedError], Strategy] | None = None,
    restarts_unfinished: bool = False,
) -> Served:
    """Serves prompts, each as there is room for it; progress is shown on stderr.

    A prompt that the strategy cannot serve is a bad line: it has a result that says so,
    and stops nothing.

    Args:
        strategy: To be run, its model path as seen from here.
        lines: Prompts to be continued; they are read twice for each plan, and may be more
            than memory holds.
        start: Starts the engine; by default all stages run in this process.
        weights_cache: Where these keep what they round, if anywhere.
        is_chat: Send plain prompts as a user's message through the checkpoint's chat
            template.
        ignores_eos: Go on whatever the model says.
        keeps_events: In the batches' records, which grow with them.
        is_done: Whether a line of this name has its result already.
        on_result: Hears what becomes of each other line, as soon as it is known.
        solve_again: Makes a plan without a device that is gone, for the same workload;
            by default its loss ends the run.
        restarts_unfinished: Whether another plan starts requests again that have not
            ended; otherwise they go on from the tokens they have.

    Raises:
        RequestError: The lines cannot be read, or change while they are served.
        DeviceFailedError: A device is, and no other plan is asked for.
    """
    bad_lines: tuple[BadLine, int] | None = None
    with closing(Progress()) as progress:
        tell_result = progress.teller(on_result)
        is_first = True
        while True:
            reader = RequestReader(
                strategy,
                lines,
                is_chat=is_chat,
                ignores_eos=ignores_eos,
                is_done=is_done,
                progress=progress,
            )
            demand = _read_demand(reader, strategy)
            if is_first:
                # Later plans find those told that an earlier one has met.
                bad_lines, is_first = reader.bad_lines, False
            # What was bad is told now, between the requests around it.
            requests = reader.requests(
                lambda line: tell_result(line, Result(line=line))
            )
            if demand is None:
                for _ in requests:
                    msg = "the prompts have changed while they were read: expected them to stay as they are"
                    raise RequestError(msg)
                return Served(strategy=strategy, bad_lines=bad_lines, batches=())
            try:
                batches = _serve(
                    strategy,
                    requests,
                    demand,
                    start=start,
                    weights_cache=weights_cache,
                    keeps_events=keeps_events,
                    progress=progress,
                    tell_result=tell_result,
                )
            except DeviceFailedError as gone:
                if solve_again is None:
                    raise
                strategy = solve_again(gone)
                if restarts_unfinished:
                    progress.forget_partial()
            else:
                return Served(strategy=strategy, bad_lines=bad_lines, batches=batches)


def _read_demand(reader: RequestReader, strategy: Strategy) -> WorkloadSummary | None:
    """Reads all requests once, to know what they ask for together."""
    with progress_bar("reading", None, unit="prompts") as advance:
        requests = reader.requests(lambda _: None)
        return summarize_workload(
            (request for _, request in requests if not advance(1)), strategy
        )


def _serve(
    strategy: Strategy,
    requests: Iterable[tuple[RequestKey, Request]],
    demand: WorkloadSummary,
    *,
    start: StartEngine | None,
    weights_cache: WeightsCache | None,
    keeps_events: bool,
    progress: Progress,
    tell_result: Callable[[Prompt, Result], None],
) -> tuple[BatchRecord, ...]:
    """Serves requests under one plan."""
    if start is None:
        note_missing_kernels(
            name for stage in strategy.stages for name in stage.devices
        )
        start = partial(start_local, weights_cache=weights_cache)
    num_layers = strategy.model.num_layers
    with progress_bar("loading", num_layers, unit="layers") as advance:
        pipeline = Pipeline.load(strategy, start=start, on_layer=lambda: advance(1))
    plan = plan_name(strategy_fingerprint(strategy))
    with pipeline:
        with progress_bar("compiling", len(strategy.stages), unit="stages") as advance:
            pipeline.prepare(demand, on_stage=lambda: advance(1))
        max_tokens = demand.num_new_tokens
        with progress_bar("generating", max_tokens, unit="tokens") as advance:
            stream = pipeline.stream(
                requests, demand, keeps_events=keeps_events, on_tokens=advance
            )
            try:
                for result in progress.gathered(stream, pipeline.tokenizer, plan=plan):
                    assert isinstance(result.line, Prompt)
                    tell_result(result.line, result)
            except DeviceFailedError:
                progress.keep_partial(pipeline.unfinished, plan=plan)
                raise
        return tuple(pipeline.batches)


def write_records(
    served: Served,
    *,
    command: str,
    record: Path | None = None,
    trace: Path | None = None,
    timeline: Path | None = None,
) -> None:
    """Writes what a run did when, in the forms that are asked for.

    Args:
        served: What came of it.
        command: As typed, for the record.
        record: As JSON lines.
        trace: For Perfetto.
        timeline: As a picture of the last batch.
    """
    strategy = served.strategy
    if record is not None:
        header = {
            "schema": 1,
            "program": f"llmpq-jax {__version__}",
            "command": command,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": strategy.model.path,
            "fingerprint": strategy.model.fingerprint,
            "strategy": tomllib.loads(to_toml(strategy)),
        }
        phases = [phase_times(strategy, batch) for batch in served.batches]
        write_run_record(record, served.batches, header, phases)
    if trace is not None:
        write_trace(trace, strategy, served.batches)
    if timeline is not None:
        write_timeline(timeline, strategy, served.batches[-1])
