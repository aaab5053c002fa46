"""Prompts in, results out: loads a strategy, serves, and keeps the records."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmpq_jax import __version__
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.report.console import progress_bar
from llmpq_jax.report.timeline import write_timeline
from llmpq_jax.report.trace import write_trace
from llmpq_jax.runtime.engines.engine import StartEngine
from llmpq_jax.runtime.engines.local import start_local
from llmpq_jax.runtime.limits import check_request
from llmpq_jax.runtime.phase_times import phase_times
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Completion, Request
from llmpq_jax.runtime.run_record import BatchRecord, write_run_record
from llmpq_jax.spec._toml import to_toml
from llmpq_jax.spec.families import read_architecture
from llmpq_jax.spec.strategy import Strategy
from llmpq_jax.workflow.kernels import tell_of_missing_kernels
from llmpq_jax.workflow.prompt import BadLine, Prompt, prompt_tokens
from llmpq_jax.workflow.result_line import Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What came of a run.

    Attributes:
        num_served: Prompts that were continued.
        bad_lines: Of the lines that could not be, the first one and how many.
        batches: What each batch did when; none where nothing could be served.
    """

    num_served: int
    bad_lines: tuple[BadLine, int] | None
    batches: tuple[BatchRecord, ...]

    def check(self, results: Path | None) -> None:
        """Fails if there were bad lines, once all else is done.

        Args:
            results: The file that says what is wrong with each.

        Raises:
            RequestError: There were; the message is that of the first.
        """
        if self.bad_lines is None:
            return
        first, count = self.bad_lines
        msg = str(first)
        if count > 1:
            lines = "line" if count == 2 else "lines"
            told = "" if results is None else f": {results} says what of each"
            msg += f" (and {count - 1} more {lines}{told})"
        raise RequestError(msg)


def serve_prompts(
    strategy: Strategy,
    lines: Iterable[Prompt | BadLine],
    *,
    start: StartEngine | None = None,
    is_chat: bool = False,
    ignores_eos: bool = False,
    is_done: Callable[[str], bool] = lambda _: False,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Served:
    """Serves prompts, batch by batch; progress is shown on stderr.

    A prompt that the strategy cannot serve is a bad line: it has a result that says so,
    and stops nothing.

    Args:
        strategy: To be run, its model path as seen from here.
        lines: Prompts to be continued.
        start: Starts the engine; by default all stages run in this process.
        is_chat: Send plain prompts as a user's message through the checkpoint's chat
            template.
        ignores_eos: Go on whatever the model says.
        is_done: Whether a line of this name has its result already.
        on_result: Hears what becomes of each other line.
    """
    make_request = _RequestMaker(strategy, is_chat=is_chat, ignores_eos=ignores_eos)
    prompts: list[Prompt] = []
    requests: list[Request] = []
    bad_lines: list[BadLine] = []
    for line in lines:
        made = make_request(line)
        if isinstance(made, BadLine):
            bad_lines.append(made)
        if is_done(line.custom_id):
            continue
        if isinstance(made, BadLine):
            on_result(Result(line=made))
        else:
            prompt, request = made
            prompts.append(prompt)
            requests.append(request)

    def on_completion(number: int, completion: Completion) -> None:
        on_result(Result(line=prompts[number], completion=completion))

    return Served(
        num_served=len(requests),
        bad_lines=(bad_lines[0], len(bad_lines)) if bad_lines else None,
        batches=_serve(strategy, start, requests, on_completion) if requests else (),
    )


def _serve(
    strategy: Strategy,
    start: StartEngine | None,
    requests: Sequence[Request],
    on_completion: Callable[[int, Completion], None],
) -> tuple[BatchRecord, ...]:
    if start is None:
        tell_of_missing_kernels(
            name for stage in strategy.stages for name in stage.devices
        )
    num_layers = strategy.model.num_layers
    with progress_bar("loading", num_layers, unit="layers") as advance:
        pipeline = Pipeline.load(
            strategy, start=start or start_local, on_layer=lambda: advance(1)
        )
    most_tokens = sum(request.max_new_tokens for request in requests)
    with pipeline:
        with progress_bar("compiling", len(strategy.stages), unit="stages") as advance:
            pipeline.prepare(requests, on_stage=lambda: advance(1))
        with progress_bar("generating", most_tokens, unit="tokens") as advance:
            results = pipeline.serve(requests, on_tokens=advance)
            for number, completion in enumerate(results):
                on_completion(number, completion)
        return tuple(pipeline.batches)


def write_records(
    strategy: Strategy,
    served: Served,
    *,
    command: str,
    record: Path | None = None,
    trace: Path | None = None,
    timeline: Path | None = None,
) -> None:
    """Writes what a run did when, in the forms that are asked for.

    Args:
        strategy: That was run.
        served: What came of it.
        command: As typed, for the record.
        record: As JSON lines.
        trace: For Perfetto.
        timeline: As a picture of the last batch.
    """
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


class _RequestMaker:
    """Tokenises prompts, and tells those apart that the strategy cannot serve."""

    def __init__(self, strategy: Strategy, *, is_chat: bool, ignores_eos: bool) -> None:
        folder = Path(strategy.model.path)
        self._strategy = strategy
        self._architecture = read_architecture(folder)
        self._tokenizer = Tokenizer.load(folder)
        self._is_chat = is_chat
        self._ignores_eos = ignores_eos

    def __call__(self, line: Prompt | BadLine) -> tuple[Prompt, Request] | BadLine:
        if isinstance(line, BadLine):
            return line
        planned = self._strategy.workload.new_tokens
        try:
            request = Request(
                token_ids=prompt_tokens(line, self._tokenizer, is_chat=self._is_chat),
                max_new_tokens=line.max_new_tokens or planned,
                sampling=line.sampling,
                stop=line.stop,
                ignores_eos=self._ignores_eos,
            )
            check_request(request, self._strategy, self._architecture)
        except RequestError as reason:
            return BadLine.of(
                number=line.number,
                custom_id=line.custom_id,
                where=line.where,
                error=reason,
            )
        return line, request
