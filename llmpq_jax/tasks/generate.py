"""Prompts in, results out: loads a strategy, serves, and keeps the records."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmpq_jax import __version__
from llmpq_jax.arch.fingerprint import plan_name, strategy_fingerprint
from llmpq_jax.batch.prompt import BadLine, Prompt
from llmpq_jax.batch.reader import RequestReader
from llmpq_jax.batch.reorder_buffer import ReorderBuffer, RequestKey
from llmpq_jax.batch.result_line import Result
from llmpq_jax.errors import RequestError
from llmpq_jax.files import write_outputs
from llmpq_jax.report.console import progress_bar
from llmpq_jax.report.timeline import write_timeline
from llmpq_jax.report.trace import write_trace
from llmpq_jax.runtime.analysis.phase_times import phase_times
from llmpq_jax.runtime.analysis.run_record import BatchRecord, write_run_record
from llmpq_jax.runtime.engines.engine import DeviceFailedError, StartEngine
from llmpq_jax.runtime.request import Request
from llmpq_jax.runtime.workload_summary import WorkloadSummary, summarize_workload
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.toml import to_toml
from llmpq_jax.tasks.load_pipeline import load_pipeline, start_here


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSettings:
    """How prompts are served.

    Attributes:
        start: Function that starts the engine; by default all stages run in this process.
        is_chat: Whether plain prompts go through the checkpoint's chat template.
        ignores_eos: Whether generation continues after an end-of-text token.
        keeps_events: Whether the batches' records keep their events, with which they grow.
        restarts_unfinished: Whether a new plan starts unfinished requests again;
            otherwise they continue with the tokens that they have.
    """

    start: StartEngine = start_here
    is_chat: bool = False
    ignores_eos: bool = False
    keeps_events: bool = True
    restarts_unfinished: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """Outcome of a run.

    Attributes:
        strategy: Strategy that ran last: the given one, unless a device failed.
        bad_lines: First bad line and number of bad lines, those included that the model
            failed at; None if there was none.
        batches: Records of the batches under that strategy; empty if no line could be
            served.
    """

    strategy: Strategy
    bad_lines: tuple[BadLine, int] | None
    batches: tuple[BatchRecord, ...]

    def check(self, results: Path | None, *, num_kept_errors: int = 0) -> None:
        """Raises an error if there were bad lines, which the results say more of.

        Raises:
            RequestError: There were bad lines; the message is that of the first.
        """
        if self.bad_lines is not None:
            first, count = self.bad_lines
            more = count - 1 + num_kept_errors
            where = "" if results is None else f": {results} says what of each"
            lines = "line" if more == 1 else "lines"
            msg = f"{first} (and {more} more {lines}{where})" if more else str(first)
            raise RequestError(msg)
        if num_kept_errors:
            msg = f"results {results}: {num_kept_errors} lines could not be served by earlier runs: their results say why"
            raise RequestError(msg)


def serve_prompts(
    strategy: Strategy,
    lines: Iterable[Prompt | BadLine],
    settings: ServeSettings | None = None,
    *,
    is_done: Callable[[str], bool] = lambda _: False,
    on_result: Callable[[Result], None] = lambda _: None,
    solve_again: Callable[[DeviceFailedError], Strategy] | None = None,
) -> Served:
    """Serves prompts, each as soon as there is room for it, with progress on stderr.

    A prompt that the strategy cannot serve is a bad line: its result says why, and the
    run continues. Lines are read twice for each plan; they may be more than memory
    holds.

    Args:
        strategy: Strategy to run, its model path as seen from here.
        lines: Prompts and bad lines.
        settings: Options of the run; None for the defaults.
        is_done: Predicate of a line's name: whether it has its result already.
        on_result: Called with the result of each other line as soon as it is complete.
        solve_again: Makes a plan for the same workload without failed devices; None if
            a failed device ends the run.

    Raises:
        RequestError: The lines cannot be read, or change while they are served.
        DeviceFailedError: A device failed and `solve_again` is None.
    """
    settings = settings or ServeSettings()
    bad_lines: tuple[BadLine, int] | None = None
    with closing(ReorderBuffer(on_result)) as buffer:
        is_first = True
        while True:
            reader = RequestReader(
                strategy,
                lines,
                is_chat=settings.is_chat,
                ignores_eos=settings.ignores_eos,
                is_done=is_done,
                buffer=buffer,
            )
            demand = _read_demand(reader, strategy)
            if is_first:
                # For later plans, bad lines that have their result are no bad lines.
                bad_lines, is_first = reader.bad_lines, False
            # Results of bad lines are written now, among those of the requests.
            requests = reader.requests(lambda line: buffer.write(Result(line=line)))
            if demand is None:
                for _ in requests:
                    msg = "the prompts have changed while they were read: expected them to stay as they are"
                    raise RequestError(msg)
                return Served(strategy=strategy, bad_lines=bad_lines, batches=())
            try:
                batches = _serve(strategy, requests, demand, settings, buffer)
            except DeviceFailedError as failure:
                if solve_again is None:
                    raise
                strategy = solve_again(failure)
                if settings.restarts_unfinished:
                    buffer.drop_partial()
            else:
                return Served(
                    strategy=strategy,
                    bad_lines=_together(bad_lines, buffer.failed),
                    batches=batches,
                )


def _together(
    refused: tuple[BadLine, int] | None, failed: tuple[BadLine, int] | None
) -> tuple[BadLine, int] | None:
    """Returns the first of all bad lines, and their number."""
    found = [each for each in (refused, failed) if each is not None]
    if not found:
        return None
    return found[0][0], sum(count for _, count in found)


def _read_demand(reader: RequestReader, strategy: Strategy) -> WorkloadSummary | None:
    """Reads all requests once to summarise their workload; None if there is none."""
    with progress_bar("reading", None, unit="prompts") as advance:
        requests = reader.requests(lambda _: None)
        return summarize_workload(
            (request for _, request in requests if not advance(1)), strategy
        )


def _serve(
    strategy: Strategy,
    requests: Iterable[tuple[RequestKey, Request]],
    demand: WorkloadSummary,
    settings: ServeSettings,
    buffer: ReorderBuffer,
) -> tuple[BatchRecord, ...]:
    """Serves requests under one plan."""
    pipeline = load_pipeline(strategy, settings.start)
    plan = plan_name(strategy_fingerprint(strategy))
    with pipeline:
        with progress_bar("compiling", None, unit="shapes") as advance:
            pipeline.prepare(demand, on_compiled=advance)
        max_tokens = demand.num_new_tokens
        with progress_bar("generating", max_tokens, unit="tokens") as advance:
            readable = _Readable(requests)
            stream = pipeline.stream(
                readable,
                demand,
                keeps_events=settings.keeps_events,
                on_tokens=advance,
            )
            try:
                buffer.write_complete(stream, pipeline.tokenizer, plan=plan)
            except DeviceFailedError:
                buffer.add_partial(pipeline.unfinished, plan=plan)
                raise
        if readable.error is not None:
            raise readable.error
        return tuple(pipeline.batches)


class _Readable:
    """Requests up to the first that cannot be read, so that those before it are served.

    Attributes:
        error: Error of the reading; None if all requests could be read.
    """

    def __init__(self, requests: Iterable[tuple[RequestKey, Request]]) -> None:
        self.error: RequestError | None = None
        self._requests = requests

    def __iter__(self) -> Iterator[tuple[RequestKey, Request]]:
        try:
            yield from self._requests
        except RequestError as error:
            self.error = error


def write_records(
    served: Served,
    *,
    command: str,
    record: Path | None = None,
    trace: Path | None = None,
    timeline: Path | None = None,
) -> None:
    """Writes when each stage did what, as JSON lines, for Perfetto and as a picture.

    Raises:
        RequestError: Some cannot be written; the others are.
    """
    strategy, batches = served.strategy, served.batches
    writers: list[Callable[[], None]] = []
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
        phases = [phase_times(strategy, batch) for batch in batches]
        writers.append(partial(write_run_record, record, batches, header, phases))
    if trace is not None:
        writers.append(partial(write_trace, trace, strategy, batches))
    if timeline is not None:
        writers.append(partial(write_timeline, timeline, strategy, batches[-1]))
    write_outputs(writers)
