"""A strategy, loaded and ready to serve: the public API for running."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import has_weights
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.tokenizer import Tokenizer
from llmpq_jax.checkpoint.validate import rounding_note
from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.admission import check_memory, check_request
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.engines.engine import (
    DeviceFailedError,
    Engine,
    OnCompiled,
    StartEngine,
)
from llmpq_jax.runtime.engines.local import start_local
from llmpq_jax.runtime.grammars import SequenceMaker
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.request import Completion, PartialCompletion, Request, Sampling
from llmpq_jax.runtime.scoring import score
from llmpq_jax.runtime.stream import Stream
from llmpq_jax.runtime.workload_summary import WorkloadSummary, summarize_workload
from llmpq_jax.schema.record_files import read_strategy
from llmpq_jax.schema.strategy import Strategy

Key = TypeVar("Key")

_logger = logging.getLogger(__name__)


class Pipeline:
    """All stages of a strategy, loaded by an engine and ready to serve.

    Example:
        with Pipeline.load("strategy.toml") as pipeline:
            for completion in pipeline.generate(["def read_lines(path):"]):
                print(completion.text)

    Attributes:
        strategy: Strategy of the stages.
        architecture: Architecture of the model.
        tokenizer: Tokenizer of the model.
        engine: Engine that runs the stages.
        batches: Records of the runs of requests so far.
        unfinished: Partial completions, with their requests' keys, of the run that a
            device's failure ended (`DeviceFailedError`).
    """

    def __init__(
        self,
        strategy: Strategy,
        architecture: Architecture,
        tokenizer: Tokenizer,
        engine: Engine,
    ) -> None:
        """Takes an engine with loaded stages; `Pipeline.load` makes one."""
        self.strategy = strategy
        self.architecture = architecture
        self.tokenizer = tokenizer
        self.batches: list[BatchRecord] = []
        self.unfinished: list[tuple[Any, PartialCompletion]] = []
        self.engine = engine

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
            strategy: Strategy, or the path of its file; a relative model path is relative
                to the file's folder.
            start: Function that starts the engine; by default all stages run in this
                process.
            on_layer: Called after each layer is loaded.

        Raises:
            StrategyError: If the strategy is for another model or for missing devices, or
                does not fit the memory that it may use.
            CheckpointError: If the weights are missing, damaged, or quantised to other
                bits than the strategy's.
        """
        if not isinstance(strategy, Strategy):
            strategy = read_strategy(Path(strategy))
        engine = start(strategy, on_layer=on_layer)
        folder = Path(strategy.model.path)
        architecture = read_architecture(folder)
        # Where all stages are on other machines, this one may have no weights.
        if has_weights(folder):
            served = (*strategy.bits, strategy.precision.head_bits)
            note = rounding_note(CheckpointTensors.open(folder), served)
            if note is not None:
                _logger.warning(note)
        return cls(strategy, architecture, Tokenizer.load(folder), engine)

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
        """Completes prompts, as many at a time as the strategy's batch has rows.

        Args:
            prompts: Texts, or token ids of each.
            max_new_tokens: Largest number of tokens for each prompt; by default as many
                as the strategy plans for.
            sampling: Sampling parameters for all prompts, or for each; by default the
                likeliest token.
            stop: Texts before the first of which a completion ends.
            ignores_eos: Whether generation continues after an end-of-text token.
            on_tokens: Called with the number of new tokens of each result.

        Returns:
            One completion for each prompt, in their order.

        Raises:
            RequestError: If a prompt is empty or does not fit the strategy's context.
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

        As many are served at a time as the strategy's batch has rows; a request that
        finishes makes room for the next. Those with the most new tokens are served first,
        because a few long ones at the end would leave most rows empty.

        Raises:
            RequestError: If one of them does not fit; then none is served.
        """
        for request in requests:
            check_request(request, self.strategy, self.architecture)
        summary = self._summary(requests)
        if summary is None:
            return
        finished: dict[int, Completion] = {}
        next_index = 0
        stream = self.stream(enumerate(requests), summary, on_tokens=on_tokens)
        for index, completion in stream:
            finished[index] = completion
            while next_index in finished:
                yield finished.pop(next_index)
                next_index += 1

    def stream(
        self,
        requests: Iterable[tuple[Key, Request]],
        summary: WorkloadSummary,
        *,
        keeps_events: bool = True,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[Key, Completion]]:
        """Serves a stream of requests and yields each completion as it finishes.

        There may be more requests than fit into memory.

        Args:
            requests: Requests that fit the strategy (`check_request`), each with a key
                that is returned with its completion.
            summary: Summary of these requests (`summarize_workload`).
            keeps_events: Whether the record of the run keeps all events; it then grows
                with the number of requests.
            on_tokens: Called with the number of new tokens of each result.

        Raises:
            RequestError: If the summary is of other requests.
            DeviceFailedError: If a device has failed for good; see `unfinished`.
        """
        self.prepare(summary)
        stream = Stream(
            self.engine,
            self.strategy,
            SequenceMaker(self.tokenizer, self.architecture.vocabulary_size),
            summary,
            self._head_inputs(summary.shape(self.strategy)),
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
            token_ids: Tokens of each row, [batch, length].
            stepwise: Whether to go token by token through the cache, as generation does,
                instead of through whole rows at once.

        Raises:
            RequestError: If rows have unequal lengths or no tokens.
        """
        return score(
            self.engine, self.strategy.micro_batch, token_ids, stepwise=stepwise
        )

    def prepare(
        self,
        requests: Sequence[Request] | WorkloadSummary,
        *,
        on_compiled: OnCompiled = lambda _count, _total: None,
    ) -> None:
        """Compiles every stage for requests, all stages at the same time.

        Serving does it too; calling it before keeps compilation out of timed runs.

        Args:
            requests: Requests to serve, or their summary.
            on_compiled: Called with the number of shapes that a stage has been compiled
                for since, and with that of all shapes of all stages.

        Raises:
            StrategyError: If a stage does not fit the memory that it may use.
        """
        summary = (
            requests
            if isinstance(requests, WorkloadSummary)
            else self._summary(requests)
        )
        if summary is None:
            return
        shape = summary.shape(self.strategy)
        check_memory(self.strategy, self.engine.facts, shape)
        shapes = summary.stage_shapes(self.strategy, self._head_inputs(shape))
        self.engine.prepare(shapes, on_compiled=on_compiled)

    @property
    def weight_bytes(self) -> list[int]:
        """Bytes of each stage's weights on the fullest of its devices."""
        return [facts.weight_bytes for facts in self.engine.facts]

    def close(self) -> None:
        """Ends the stages."""
        self.engine.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _head_inputs(self, shape: BatchShape) -> HeadInputs:
        return HeadInputs(
            vocabulary_size=self.architecture.vocabulary_size,
            num_slots=shape.num_slots,
        )

    def _summary(self, requests: Sequence[Request]) -> WorkloadSummary | None:
        """Summarises requests that are all in memory, so that the window holds them all."""
        return summarize_workload(
            requests, self.strategy, look_ahead=max(1, len(requests))
        )
