"""Prompts in, results out: loads a strategy, serves, and keeps the records."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmpq_jax import __version__
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError
from llmpq_jax.report.console import progress_bar
from llmpq_jax.report.timeline import write_timeline
from llmpq_jax.report.trace import write_trace
from llmpq_jax.runtime.limits import check_request
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Completion, Request
from llmpq_jax.runtime.run_record import BatchRecord, write_run_record
from llmpq_jax.spec.families import read_architecture
from llmpq_jax.spec.strategy import Strategy
from llmpq_jax.workflow.kernels import tell_of_missing_kernels
from llmpq_jax.workflow.prompt_file import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What came of a run.

    Attributes:
        completions: In the order of the prompts.
        batches: What each batch did when.
    """

    completions: tuple[Completion, ...]
    batches: tuple[BatchRecord, ...]


def serve_prompts(
    strategy: Strategy,
    prompts: Sequence[Prompt],
    *,
    is_chat: bool = False,
    ignores_eos: bool = False,
    on_result: Callable[[Prompt, Completion], None] = lambda _, __: None,
) -> Served:
    """Serves prompts, batch by batch; progress is shown on stderr.

    Args:
        strategy: To be run, its model path as seen from here.
        prompts: To be continued.
        is_chat: Send each as a user's message through the checkpoint's chat template.
        ignores_eos: Go on whatever the model says.
        on_result: Hears of each prompt's completion, batch by batch.

    Raises:
        RequestError: A prompt does not fit the strategy; nothing has been loaded then.
    """
    requests = _checked_requests(
        strategy, prompts, is_chat=is_chat, ignores_eos=ignores_eos
    )
    tell_of_missing_kernels(name for stage in strategy.stages for name in stage.devices)
    num_layers = strategy.model.num_layers
    with progress_bar("loading", num_layers, unit="layers") as advance:
        pipeline = Pipeline.load(strategy, on_layer=lambda: advance(1))
    completions = []
    most_tokens = sum(request.max_new_tokens for request in requests)
    with pipeline:
        with progress_bar("compiling", len(strategy.stages), unit="stages") as advance:
            pipeline.prepare(requests, on_stage=lambda: advance(1))
        with progress_bar("generating", most_tokens, unit="tokens") as advance:
            results = pipeline.serve(requests, on_tokens=advance)
            for prompt, completion in zip(prompts, results, strict=True):
                completions.append(completion)
                on_result(prompt, completion)
        batches = tuple(pipeline.batches)
    return Served(completions=tuple(completions), batches=batches)


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
        }
        write_run_record(record, served.batches, header)
    if trace is not None:
        write_trace(trace, strategy, served.batches)
    if timeline is not None:
        write_timeline(timeline, strategy, served.batches[-1])


def _checked_requests(
    strategy: Strategy,
    prompts: Sequence[Prompt],
    *,
    is_chat: bool,
    ignores_eos: bool,
) -> list[Request]:
    folder = Path(strategy.model.path)
    architecture = read_architecture(folder)
    tokenizer = Tokenizer.load(folder)
    requests = []
    for prompt in prompts:
        message = {"role": "user", "content": prompt.text}
        try:
            request = Request(
                token_ids=tokenizer.encode_chat([message])
                if is_chat
                else tokenizer.encode(prompt.text),
                max_new_tokens=prompt.max_new_tokens or strategy.workload.new_tokens,
                sampling=prompt.sampling,
                stop=prompt.stop,
                ignores_eos=ignores_eos,
            )
            check_request(request, strategy, architecture)
        except RequestError as reason:
            msg = f"{prompt.where}: {reason}"
            raise RequestError(msg) from reason
        requests.append(request)
    return requests
