"""Prompts in, results out: loads a strategy, serves, and keeps the records."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_jax import __version__
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.report.console import progress_bar
from llmpq_jax.report.timeline import write_timeline
from llmpq_jax.report.trace import write_trace
from llmpq_jax.runtime.demand import demand_of
from llmpq_jax.runtime.engines.engine import StartEngine
from llmpq_jax.runtime.engines.local import start_local
from llmpq_jax.runtime.limits import check_request
from llmpq_jax.runtime.phase_times import phase_times
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Completion, Request
from llmpq_jax.runtime.run_record import BatchRecord, write_run_record
from llmpq_jax.spec._toml import to_toml
from llmpq_jax.spec.families import read_architecture
from llmpq_jax.spec.fingerprint import plan_name, strategy_fingerprint
from llmpq_jax.spec.strategy import Strategy
from llmpq_jax.workflow.kernels import tell_of_missing_kernels
from llmpq_jax.workflow.prompt import BadLine, Prompt, prompt_tokens
from llmpq_jax.workflow.result_line import Result


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What came of a run.

    Attributes:
        bad_lines: Of the lines that could not be, the first one and how many.
        batches: What each batch did when; none where nothing could be served.
    """

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
    is_chat: bool = False,
    ignores_eos: bool = False,
    keeps_events: bool = True,
    is_done: Callable[[str], bool] = lambda _: False,
    on_result: Callable[[Result], None] = lambda _: None,
) -> Served:
    """Serves prompts, each as there is room for it; progress is shown on stderr.

    A prompt that the strategy cannot serve is a bad line: it has a result that says so,
    and stops nothing.

    Args:
        strategy: To be run, its model path as seen from here.
        lines: Prompts to be continued; they are read twice, and may be more than memory
            holds.
        start: Starts the engine; by default all stages run in this process.
        is_chat: Send plain prompts as a user's message through the checkpoint's chat
            template.
        ignores_eos: Go on whatever the model says.
        keeps_events: In the batches' records, which grow with them.
        is_done: Whether a line of this name has its result already.
        on_result: Hears what becomes of each other line, as soon as it is known.

    Raises:
        RequestError: The lines cannot be read, or change while they are served.
    """
    reader = _RequestReader(
        strategy, lines, is_chat=is_chat, ignores_eos=ignores_eos, is_done=is_done
    )
    with progress_bar("reading", None, unit="prompts") as advance:
        requests = reader.requests(lambda _: None)
        demand = demand_of(
            (request for _, request in requests if not advance(1)), strategy
        )
    bad_lines = reader.bad_lines
    # What was bad is told now, between the requests around it.
    requests = reader.requests(lambda line: on_result(Result(line=line)))
    if demand is None:
        for _ in requests:
            msg = "the prompts have changed while they were read: expected them to stay as they are"
            raise RequestError(msg)
        return Served(bad_lines=bad_lines, batches=())
    if start is None:
        tell_of_missing_kernels(
            name for stage in strategy.stages for name in stage.devices
        )
    num_layers = strategy.model.num_layers
    with progress_bar("loading", num_layers, unit="layers") as advance:
        pipeline = Pipeline.load(
            strategy, start=start or start_local, on_layer=lambda: advance(1)
        )
    with pipeline:
        with progress_bar("compiling", len(strategy.stages), unit="stages") as advance:
            pipeline.prepare(demand, on_stage=lambda: advance(1))
        most_tokens = demand.num_new_tokens
        with progress_bar("generating", most_tokens, unit="tokens") as advance:
            stream = pipeline.stream(
                requests, demand, keeps_events=keeps_events, on_tokens=advance
            )
            plan = plan_name(strategy_fingerprint(strategy))
            for result in _gathered(stream, pipeline.tokenizer, plan=plan):
                on_result(result)
        return Served(bad_lines=bad_lines, batches=tuple(pipeline.batches))


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


def _gathered(
    stream: Iterable[tuple[tuple[Prompt, int], Completion]],
    tokenizer: Tokenizer,
    *,
    plan: str,
) -> Iterator[Result]:
    """Yields a result for each prompt once all its choices have ended."""
    ended: dict[str, dict[int, Completion]] = {}
    for (prompt, index), completion in stream:
        choices = ended.setdefault(prompt.custom_id, {})
        choices[index] = completion
        if len(choices) == prompt.num_choices:
            del ended[prompt.custom_id]
            in_order = tuple(choices[index] for index in range(len(choices)))
            yield Result(
                line=prompt,
                completions=in_order,
                plans=(plan,),
                token_text=lambda token_id: tokenizer.decode([token_id]),
            )


class _RequestReader:
    """Makes requests of lines, and tells those apart that the strategy cannot serve.

    Attributes:
        bad_lines: Of those that were read last, the first one and how many.
    """

    def __init__(
        self,
        strategy: Strategy,
        lines: Iterable[Prompt | BadLine],
        *,
        is_chat: bool,
        ignores_eos: bool,
        is_done: Callable[[str], bool],
    ) -> None:
        folder = Path(strategy.model.path)
        self.bad_lines: tuple[BadLine, int] | None = None
        self._strategy = strategy
        self._lines = lines
        self._architecture = read_architecture(folder)
        self._tokenizer = Tokenizer.load(folder)
        self._is_chat = is_chat
        self._ignores_eos = ignores_eos
        self._is_done = is_done

    def requests(
        self, on_bad_line: Callable[[BadLine], None]
    ) -> Iterator[tuple[tuple[Prompt, int], Request]]:
        """Reads all lines that are not done; each choice is a request."""
        self.bad_lines = None
        for line in self._lines:
            if self._is_done(line.custom_id):
                continue
            made = line if isinstance(line, BadLine) else self._request(line)
            if isinstance(made, BadLine):
                first, count = self.bad_lines or (made, 0)
                self.bad_lines = first, count + 1
                on_bad_line(made)
            else:
                assert isinstance(line, Prompt)
                seed = made.sampling.seed
                for index in range(line.num_choices):
                    sampling = replace(made.sampling, seed=seed + index)
                    yield (line, index), replace(made, sampling=sampling)

    def _request(self, prompt: Prompt) -> Request | BadLine:
        planned = self._strategy.workload.new_tokens
        try:
            request = Request(
                token_ids=prompt_tokens(prompt, self._tokenizer, is_chat=self._is_chat),
                max_new_tokens=prompt.max_new_tokens or planned,
                sampling=prompt.sampling,
                stop=prompt.stop,
                ignores_eos=self._ignores_eos,
                top_logprobs=prompt.top_logprobs,
            )
            check_request(request, self._strategy, self._architecture)
        except RequestError as reason:
            return BadLine.of(
                number=prompt.number,
                custom_id=prompt.custom_id,
                where=prompt.where,
                error=reason,
            )
        return request
