"""Serves a stream of requests in one run, and yields each completion as it finishes."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from llmpq_jax.errors import RequestError
from llmpq_jax.runtime.analysis.batch_recorder import BatchRecorder
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.runtime.batch_scheduler import BatchScheduler
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.engines.engine import Engine
from llmpq_jax.runtime.grammars import SequenceMaker
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.not_finite import not_finite_reason
from llmpq_jax.runtime.request import Completion, PartialCompletion, Request
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.runtime.workload_summary import WorkloadSummary, longest_first
from llmpq_jax.schema.strategy import Strategy

Key = TypeVar("Key")

# Events are collected from the stages after this many requests.
_REQUESTS_PER_COLLECTION = 64


class Stream:
    """One run of requests, of which there may be more than fit into memory.

    Attributes:
        record: Record of the run, None before it has ended.
    """

    def __init__(
        self,
        engine: Engine,
        strategy: Strategy,
        sequence_maker: SequenceMaker,
        summary: WorkloadSummary,
        head_inputs: HeadInputs,
        *,
        keeps_events: bool,
        on_tokens: Callable[[int], None],
    ) -> None:
        """Takes an engine that is prepared for the requests; see `Pipeline.stream`."""
        self.record: BatchRecord | None = None
        self._engine = engine
        self._strategy = strategy
        self._sequence_maker = sequence_maker
        self._summary = summary
        self._head_inputs = head_inputs
        self._shape = summary.shape(strategy)
        self._keeps_events = keeps_events
        self._on_tokens = on_tokens
        self._num_requests = 0
        self._num_new_tokens = 0
        self._keys: dict[Sequence, Any] = {}

    def unfinished(self) -> Iterator[tuple[Any, PartialCompletion]]:
        """Yields the key and the tokens so far of each request that did not finish."""
        for sequence, key in self._keys.items():
            if sequence.num_generated and not sequence.is_finished:
                yield (
                    key,
                    PartialCompletion(
                        token_ids=tuple(sequence.token_ids),
                        logprobs=tuple(sequence.logprobs),
                    ),
                )

    def serve(
        self, requests: Iterable[tuple[Key, Request]]
    ) -> Iterator[tuple[Key, Completion]]:
        """Yields completions as they finish, each with the key of its request.

        Raises:
            RequestError: If a request does not fit the summary.
        """
        shape = self._shape
        self._keys = keys = dict[Sequence, Any]()
        scheduler = BatchScheduler(
            engine=self._engine,
            shape=shape,
            sequences=self._sequences(requests, keys),
            head_inputs=self._head_inputs,
            on_tokens=self._on_tokens,
        )
        scheduler.allocate()
        # Events of earlier runs are dropped.
        self._engine.take_events()
        # Objects that exist already are hidden from the garbage collector, which would
        # traverse all of JAX's again and again while stages wait for the interpreter.
        gc.freeze()
        recorder = BatchRecorder(
            self._strategy,
            started_s=time.perf_counter(),
            num_first_prefills=shape.num_prefills,
            keeps_events=self._keeps_events,
        )
        try:
            for sequence in scheduler.run():
                self._num_requests += 1
                self._num_new_tokens += sequence.num_generated
                if self._num_requests % _REQUESTS_PER_COLLECTION == 0:
                    recorder.add(self._engine.take_events())
                yield keys.pop(sequence), self._completion(sequence)
            recorder.add(self._engine.take_events())
            self.record = self._record(recorder)
        finally:
            gc.unfreeze()
            self._engine.free()

    def _sequences(
        self, requests: Iterable[tuple[Key, Request]], keys: dict[Sequence, Key]
    ) -> Iterator[Sequence]:
        ordered = longest_first(
            requests,
            lambda each: each[1].num_left,
            look_ahead=self._summary.look_ahead,
        )
        for number, (key, request) in enumerate(ordered):
            _check_counted(request, number, self._summary, self._shape)
            sequence = self._sequence_maker.sequence(request)
            keys[sequence] = key
            yield sequence

    def _completion(self, sequence: Sequence) -> Completion:
        completion = sequence.completion()
        if completion.finish_reason != "error":
            return completion
        error = not_finite_reason(
            sequence.not_finite,
            self._strategy,
            num_tokens=len(completion.token_ids),
        )
        return replace(completion, error=error)

    def _record(self, recorder: BatchRecorder) -> BatchRecord:
        shape = self._shape
        return recorder.record(
            ended_s=time.perf_counter(),
            num_requests=self._num_requests,
            num_new_tokens=self._num_new_tokens,
            memory_bytes=[
                facts.memory_bytes(num_rows=shape.num_rows, num_slots=shape.num_slots)
                for facts in self._engine.facts
            ],
            peaks=self._engine.peaks(),
            machines=[facts.machine for facts in self._engine.facts],
        )


def _check_counted(
    request: Request, number: int, summary: WorkloadSummary, shape: BatchShape
) -> None:
    """Refuses a request that was not counted, for which caches may be too small."""
    length = len(request.history)
    is_first = number < len(summary.first_prompts)
    if (
        number >= summary.num_requests
        or length + request.num_left > summary.longest_context
        or (is_first and length > shape.num_tokens)
    ):
        msg = "the requests are not those that were counted before they were served: expected them to stay as they are until the run ends"
        raise RequestError(msg)
