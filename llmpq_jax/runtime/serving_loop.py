"""Serves requests that come at any time, in a thread of its own."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

from llmpq_jax.errors import LlmpqError, WorkerFailedError
from llmpq_jax.runtime.admission import check_context, check_memory
from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.engines.engine import DeviceFailedError, OnCompiled
from llmpq_jax.runtime.grammars import SequenceMaker
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.inbox import Inbox
from llmpq_jax.runtime.not_finite import not_finite_reason
from llmpq_jax.runtime.online_scheduler import OnlineCounters, OnlineScheduler
from llmpq_jax.runtime.pipeline import Pipeline
from llmpq_jax.runtime.request import Completion, Request, TokenLogprobs
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.runtime.stage_meter import StageMeter
from llmpq_jax.schema.buckets import (
    MAX_STEPS_PER_CALL,
    bucket_length,
    online_chunk_sizes,
)
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.worker import StageShapes

_logger = logging.getLogger(__name__)
_COLLECTION_S = 1.0


class NotServingError(LlmpqError):
    """Requests are not taken now: the loop is ending, or has failed."""


class QueueFullError(LlmpqError):
    """As many requests wait as may."""


class Listener(Protocol):
    """Hears of a request in the loop's thread, so it returns at once."""

    def __call__(
        self,
        token_ids: tuple[int, ...],
        logprobs: tuple[TokenLogprobs, ...],
        *,
        is_finished: bool,
    ) -> None:
        """Takes the tokens since the last call, with log-probabilities if asked for.

        The first token comes at once, others as many together as steps are run together.
        """
        ...


@dataclass(kw_only=True, slots=True, eq=False)
class ServedRequest:
    """A request in a loop, or, after a device failed, in the next one.

    Attributes:
        sequence: Tokens of the request so far.
        listener: Called as it goes on.
        loop: Loop that serves it.
        num_reported: Number of tokens that the listener has had.
        is_cancelled: Whether nobody waits for it.
    """

    sequence: Sequence
    listener: Listener
    loop: ServingLoop
    num_reported: int = 0
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Ends the request, for which nobody waits; its listener is called once more."""
        self.is_cancelled = True
        self.loop.cancel(self.sequence)

    def completion(self) -> Completion:
        """Returns the completion once it is finished; to be called once."""
        return self.loop.completion(self.sequence)


class ServingLoop:
    """Serves requests of other threads through a pipeline, as they come.

    Attributes:
        pipeline: Pipeline with loaded stages.
        shape: Shape of the caches and micro-batches.
        max_waiting: Largest number of requests that wait for a slot.
        meter: Meter of the stages' work.
        error: What ended the loop, None while it runs and after a regular end.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        max_waiting: int = 1024,
        max_steps: int = MAX_STEPS_PER_CALL,
    ) -> None:
        """Takes a pipeline, which nothing else uses meanwhile.

        Args:
            pipeline: Pipeline with loaded stages.
            max_waiting: Largest number of requests that wait for a slot.
            max_steps: Largest number of decode steps between looks for new requests.

        Raises:
            StrategyError: If a stage does not fit the memory that it may use.
        """
        self.pipeline = pipeline
        self.shape = online_shape(pipeline.strategy)
        self.max_waiting = max_waiting
        self.error: Exception | None = None
        self._inbox = Inbox()
        self._sequences = SequenceMaker(
            pipeline.tokenizer, pipeline.architecture.vocabulary_size
        )
        self._served: dict[Sequence, ServedRequest] = {}
        self._head_inputs = HeadInputs(
            vocabulary_size=pipeline.architecture.vocabulary_size,
            num_slots=self.shape.num_slots,
        )
        self.meter = StageMeter(pipeline.strategy)
        # As many as where steps are run together, if a grammar or a penalty returns after
        # each: what reads them shares the processor with the stages.
        supports_multi_step = pipeline.engine.supports_multi_step
        self._tokens_per_report = max_steps if supports_multi_step else 1
        self._collected_s = time.perf_counter()
        self._scheduler = OnlineScheduler(
            engine=pipeline.engine,
            shape=self.shape,
            inbox=self._inbox,
            head_inputs=self._head_inputs,
            max_steps=max_steps,
            on_tokens=self.meter.add_tokens,
            on_progress=self._report,
            on_step=self._collect_events,
        )
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)
        check_memory(pipeline.strategy, pipeline.engine.facts, self.shape)

    @property
    def counters(self) -> OnlineCounters:
        """What the scheduler has done so far, and what it has to do."""
        return self._scheduler.counters

    @property
    def num_unfinished(self) -> int:
        """Number of requests that are not finished."""
        return len(self._served)

    @property
    def is_serving(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._inbox.is_closed

    def prepare(self, *, on_compiled: OnCompiled = lambda _count, _total: None) -> None:
        """Compiles every stage, all at the same time; see `Pipeline.prepare`."""
        shapes = online_stage_shapes(self.shape, self._head_inputs)
        self.pipeline.engine.prepare(shapes, on_compiled=on_compiled)

    def start(self) -> None:
        """Allocates the caches, and starts to serve."""
        self._scheduler.allocate()
        self._thread.start()

    def submit(
        self,
        request: Request,
        listener: Listener,
    ) -> ServedRequest:
        """Adds a request; the listener is called until it is finished.

        Raises:
            RequestError: The strategy cannot serve it.
            QueueFullError: As many requests wait as may.
            NotServingError: The loop is ending, or has failed.
        """
        check_context(request, self.pipeline.strategy, self.pipeline.architecture)
        num_waiting = len(self._served) - self.shape.num_rows
        if num_waiting >= self.max_waiting:
            msg = (
                f"{num_waiting} requests wait, which is as many as may: try again later"
            )
            raise QueueFullError(msg)
        sequence = self._sequences.sequence(request)
        served = ServedRequest(sequence=sequence, listener=listener, loop=self)
        self._served[sequence] = served
        self._inbox.add(sequence)
        if not self.is_serving:
            self._served.pop(sequence, None)
            msg = "no requests are taken: the server is ending"
            raise NotServingError(msg)
        return served

    def adopt(self, unfinished: Iterable[ServedRequest]) -> None:
        """Continues requests of a loop that ended with a `DeviceFailedError`."""
        for served in unfinished:
            served.loop = self
            self._served[served.sequence] = served
            self._inbox.add(served.sequence)
            if served.is_cancelled:
                self._inbox.cancel(served.sequence)

    @property
    def unfinished(self) -> tuple[ServedRequest, ...]:
        """Requests that are not finished."""
        return tuple(self._served.values())

    def fail_unfinished(self) -> None:
        """Ends all requests with the loop's error, once it has ended."""
        for served in self.unfinished:
            if not served.sequence.is_finished:
                served.sequence.fail(None)
            self._report(served.sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Ends a request that nobody waits for; its listener is called once more."""
        self._inbox.cancel(sequence)

    def completion(self, sequence: Sequence) -> Completion:
        """Returns the completion of a finished request; to be called once."""
        completion = sequence.completion()
        if completion.finish_reason != "error":
            return completion
        reason = str(self.error) if self.error is not None else None
        return replace(
            completion,
            error=reason
            or not_finite_reason(
                sequence.not_finite,
                self.pipeline.strategy,
                num_tokens=len(completion.token_ids),
            ),
        )

    def close(self, *, timeout_s: float) -> None:
        """Takes no more requests, and ends when those that are there have finished.

        After some seconds the rest are cancelled.
        """
        self._inbox.close()
        if not self._thread.is_alive():
            return
        self._thread.join(timeout_s)
        for sequence in list(self._served):
            self._inbox.cancel(sequence)
        self._thread.join()

    def _run(self) -> None:
        # Objects that exist already are hidden from the garbage collector, which would
        # traverse all of JAX's again and again while stages wait for the interpreter.
        gc.freeze()
        try:
            for sequence in self._scheduler.run():
                self._report(sequence)
        except LlmpqError as reason:
            self.error = reason
        except Exception as reason:
            _logger.exception("serving ended")
            self.error = reason
        finally:
            self._inbox.close()
            gc.unfreeze()
            if not isinstance(self.error, WorkerFailedError):
                self.pipeline.engine.free()
            # After that error they may go on with another plan.
            if not isinstance(self.error, DeviceFailedError):
                self.fail_unfinished()

    def _collect_events(self) -> None:
        """Takes the stages' events now and then, which would pile up there."""
        now_s = time.perf_counter()
        if now_s - self._collected_s >= _COLLECTION_S:
            self._collected_s = now_s
            self.meter.add(self.pipeline.engine.take_events())

    def _report(self, sequence: Sequence) -> None:
        """Reports to a listener what is new; more than once at the end is harmless."""
        served = self._served.get(sequence)
        if served is None:
            return
        start, is_finished = served.num_reported, sequence.is_finished
        num_new = len(sequence.token_ids) - start
        if start and not is_finished and num_new < self._tokens_per_report:
            return
        served.num_reported = len(sequence.token_ids)
        if is_finished:
            del self._served[sequence]
        served.listener(
            tuple(sequence.token_ids[start:]),
            tuple(sequence.logprobs[start:]),
            is_finished=is_finished,
        )


def online_shape(strategy: Strategy) -> BatchShape:
    """Returns the shape in which a strategy serves requests that come at any time."""
    decode_rows = strategy.micro_batch.decode
    num_slots = bucket_length(strategy.workload.context_length)
    return BatchShape(
        num_groups=-(-strategy.workload.batch // decode_rows),
        prefill_rows=1,
        decode_rows=decode_rows,
        num_tokens=bucket_length(strategy.workload.prompt_length),
        num_slots=num_slots,
        chunk_tokens=strategy.micro_batch.chunk_tokens,
    )


def online_stage_shapes(
    shape: BatchShape, head_inputs: HeadInputs
) -> list[StageShapes]:
    """Returns the input shapes that stages compile for."""
    sizes = online_chunk_sizes(shape.chunk_tokens, shape.num_slots)
    smallest = StageShapes(
        prefill_rows=1,
        num_tokens=sizes[0],
        decode_rows=shape.decode_rows,
        num_slots=shape.num_slots,
        num_head_inputs=0,
    )
    prefill = replace(smallest, has_decode=False)
    return [
        replace(smallest, has_prefill=False, num_head_inputs=None),
        # First chunks, which attend to themselves alone, and later ones.
        *(replace(prefill, num_tokens=size) for size in sizes),
        *(replace(prefill, num_tokens=2 * size, num_chunks=2) for size in sizes),
        *(
            replace(smallest, output="adjusted", num_head_inputs=width)
            for width in head_inputs.widths
        ),
        replace(
            smallest,
            output="adjusted_logprobs",
            num_head_inputs=head_inputs.widths[-1],
        ),
        *(
            replace(
                prefill,
                num_tokens=size,
                output="prompt_logprobs",
                num_head_inputs=size + head_inputs.widths[0],
            )
            for size in sizes
        ),
    ]
