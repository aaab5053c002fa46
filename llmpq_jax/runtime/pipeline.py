"""A strategy loaded and ready to serve: the package's face for running."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.errors import RequestError, StrategyError
from llmpq_jax.runtime.admission import check_request
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.engines.engine import (
    DeviceFailedError,
    Engine,
    StageFailedError,
    StartEngine,
)
from llmpq_jax.runtime.engines.local import start_local
from llmpq_jax.runtime.request import Completion, PartialCompletion, Request, Sampling
from llmpq_jax.runtime.scoring import score_stepwise, score_whole
from llmpq_jax.runtime.stream import Stream
from llmpq_jax.runtime.workload_summary import WorkloadSummary, summarize_workload
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.schema.strategy_file import read_strategy
from llmpq_jax.stage.worker import BatchNeeds
from llmpq_jax.units import format_bytes

Key = TypeVar("Key")


class Pipeline:
    """All stages of a strategy, loaded by an engine.

    Example:
        with Pipeline.load("strategy.toml") as pipeline:
            for completion in pipeline.generate(["def read_lines(path):"]):
                print(completion.text)

    Attributes:
        strategy: What is served.
        architecture: Of the model.
        batches: A record of each run of requests served so far.
        unfinished: What requests had, each with its key, that a device took with it when
            it went for good (`DeviceFailedError`).
    """

    def __init__(
        self,
        strategy: Strategy,
        architecture: Architecture,
        tokenizer: Tokenizer,
        engine: Engine,
    ) -> None:
        """Joins loaded stages to a tokenizer; `Pipeline.load` is the usual way."""
        self.strategy = strategy
        self.architecture = architecture
        self.tokenizer = tokenizer
        self.batches: list[BatchRecord] = []
        self.unfinished: list[tuple[Any, PartialCompletion]] = []
        self._engine = engine

    @classmethod
    def load(
        cls,
        strategy: Strategy | Path | str,
        *,
        start: StartEngine = start_local,
        on_layer: Callable[[], None] = lambda: None,
    ) -> Pipeline:
        """Loads every stage onto its devices.

        Args:
            strategy: A strategy, or the path of its file; a relative model path is
                looked up from the file's folder.
            start: Starts the engine; by default all stages run in this process.
            on_layer: Called as each layer is there.

        Raises:
            StrategyError: The strategy is for another model, for devices that are not
                here, or does not fit the memory it says it may use.
            CheckpointError: The weights are missing or damaged, or quantised to other
                bits than the strategy's.
        """
        if not isinstance(strategy, Strategy):
            strategy = read_strategy(Path(strategy))
        engine = start(strategy, on_layer=on_layer)
        folder = Path(strategy.model.path)
        return cls(strategy, read_architecture(folder), Tokenizer.load(folder), engine)

    def generate(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        *,
        max_new_tokens: int | None = None,
        sampling: Sampling | Sequence[Sampling] | None = None,
        stop: Sequence[str] = (),
        ignores_eos: bool = False,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> list[Completion]:
        """Continues prompts, as many at a time as the strategy's batch has rows.

        Args:
            prompts: Texts, or token ids.
            max_new_tokens: For each; by default as many as the strategy plans for.
            sampling: One choice for all, or one for each prompt; by default the
                likeliest token is taken.
            stop: A continuation ends before the first of these texts.
            ignores_eos: Go on to `max_new_tokens` whatever the model says.
            on_tokens: Hears how many new tokens have come, as they come.

        Returns:
            One completion for each prompt, in their order.

        Raises:
            RequestError: A prompt is empty or does not fit the strategy's context.
        """
        sampling = sampling or Sampling()
        choices = (
            [sampling] * len(prompts) if isinstance(sampling, Sampling) else sampling
        )
        if len(choices) != len(prompts):
            msg = f"{len(choices)} sampling choices for {len(prompts)} prompts: expected one for all or one for each"
            raise RequestError(msg)
        requests = [
            Request(
                token_ids=self.tokenizer.encode(prompt)
                if isinstance(prompt, str)
                else tuple(prompt),
                max_new_tokens=max_new_tokens or self.strategy.workload.new_tokens,
                sampling=choice,
                stop=tuple(stop),
                ignores_eos=ignores_eos,
            )
            for prompt, choice in zip(prompts, choices, strict=True)
        ]
        return list(self.serve(requests, on_tokens=on_tokens))

    def serve(
        self,
        requests: Sequence[Request],
        *,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Completion]:
        """Serves requests and yields their completions in order.

        As many are served at a time as the strategy's batch has rows; as one ends, the
        next takes its place. Those that may become longest come first, so that no few
        long ones are left at the end, with most rows empty.

        Raises:
            RequestError: One of them does not fit; none has been served then.
        """
        for request in requests:
            check_request(request, self.strategy, self.architecture)
        summary = self._summary(requests)
        if summary is None:
            return
        ended: dict[int, Completion] = {}
        num_told = 0
        stream = self.stream(enumerate(requests), summary, on_tokens=on_tokens)
        for number, completion in stream:
            ended[number] = completion
            while num_told in ended:
                yield ended.pop(num_told)
                num_told += 1

    def stream(
        self,
        requests: Iterable[tuple[Key, Request]],
        summary: WorkloadSummary,
        *,
        keeps_events: bool = True,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[Key, Completion]]:
        """Serves requests that may be more than memory holds, and yields as each ends.

        Args:
            requests: Each with a key that its completion comes back with; they fit the
                strategy (`check_request`).
            summary: Of these requests (`summarize_workload`).
            keeps_events: In the record of the run, which grows with them.
            on_tokens: Hears how many new tokens have come, as they come.

        Raises:
            RequestError: The demand was that of others.
            DeviceFailedError: A device is; see `unfinished`.
        """
        self.prepare(summary)
        stream = Stream(
            self._engine,
            self.strategy,
            self.tokenizer,
            summary,
            keeps_events=keeps_events,
            on_tokens=on_tokens,
        )
        try:
            yield from stream.serve(requests)
        except DeviceFailedError:
            self.unfinished = list(stream.unfinished())
            raise
        if stream.record is not None:
            self.batches.append(stream.record)

    def score(
        self, token_ids: np.ndarray | Sequence[Sequence[int]], *, stepwise: bool = False
    ) -> Float[np.ndarray, "batch length vocabulary"]:
        """Returns the float32 logits after each token of rows of equal length.

        Args:
            token_ids: [batch, length].
            stepwise: Go token by token through the cache, as generating does, instead
                of through whole rows at once.

        Raises:
            RequestError: The rows are not of equal length, or hold no tokens.
        """
        try:
            tokens = np.asarray(token_ids, np.int32)
        except ValueError as reason:
            msg = "rows of unequal length cannot be scored together: expected [batch, length]"
            raise RequestError(msg) from reason
        if tokens.ndim != 2 or tokens.size == 0:
            msg = f"token_ids have the shape {list(tokens.shape)}: expected [batch, length], not empty"
            raise RequestError(msg)
        score = score_stepwise if stepwise else score_whole
        while True:
            try:
                return score(self._engine, self.strategy.micro_batch, tokens)
            except StageFailedError:
                self._engine.recover()

    def prepare(
        self,
        requests: Sequence[Request] | WorkloadSummary,
        *,
        on_stage: Callable[[], None] = lambda: None,
    ) -> None:
        """Compiles every stage for these requests, stages side by side.

        Serving does it too; done before, no compiling falls into what is timed.

        Args:
            requests: To be served, or what they ask for together.
            on_stage: Called as each stage is ready.

        Raises:
            StrategyError: A stage overfills its device.
        """
        summary = (
            requests
            if isinstance(requests, WorkloadSummary)
            else self._summary(requests)
        )
        if summary is None:
            return
        shape = summary.shape(self.strategy)
        self._check_memory(shape)
        first = BatchNeeds(
            prefill_rows=shape.prefill_rows,
            num_tokens=shape.num_tokens,
            num_chunks=shape.num_chunks(shape.num_tokens),
            decode_rows=shape.decode_rows,
            num_slots=shape.num_slots,
            has_decode=summary.has_decode,
        )
        later = [
            replace(
                first,
                prefill_rows=1,
                num_tokens=num_tokens,
                num_chunks=shape.num_chunks(num_tokens),
                has_decode=False,
            )
            for num_tokens in sorted(summary.later_buckets)
        ]
        needs = [first, *later]
        if summary.wants_logprobs:
            # Micro-batches without a row that wants them are served as ever.
            needs += [replace(need, wanted="logprobs") for need in needs]
        self._engine.prepare(needs, on_stage=on_stage)

    @property
    def weight_bytes(self) -> list[int]:
        """Bytes of each stage's weights on the device that holds most of them."""
        return [facts.weight_bytes for facts in self._engine.facts]

    def close(self) -> None:
        """Ends the stages."""
        self._engine.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _summary(self, requests: Sequence[Request]) -> WorkloadSummary | None:
        """Returns what requests ask for that are all there to choose the next among."""
        return summarize_workload(
            requests, self.strategy, look_ahead=max(1, len(requests))
        )

    def _check_memory(self, shape: BatchShape) -> None:
        """Refuses a plan, perhaps edited by hand, whose stages overfill their devices."""
        for stage, facts in zip(self.strategy.stages, self._engine.facts, strict=True):
            if stage.predicted is None:
                continue
            needed = facts.memory_bytes(
                num_rows=shape.num_rows, num_slots=shape.num_slots
            )
            if needed > stage.predicted.allowed_bytes:
                msg = f"the stage on {', '.join(stage.devices)} needs {format_bytes(needed)} for weights and cache, it may use {format_bytes(stage.predicted.allowed_bytes)}: solve again with a smaller batch or fewer bits"
                raise StrategyError(msg)
