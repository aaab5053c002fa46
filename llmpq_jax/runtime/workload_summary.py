"""Summarises requests before they are served, and puts them in the order of service.

There may be more requests than fit into memory. They are read twice, first to find shapes
that all of them fit, then to be served, both times through the same window.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.head_inputs import HeadInputs
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.worker import StageShapes

T = TypeVar("T")

# Window in which the longest requests are served first, in batches. A larger one takes
# more memory and gains little.
_BATCHES_AHEAD = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadSummary:
    """What must be known of all requests before the first is served.

    Attributes:
        num_requests: Number of requests, at least one.
        num_new_tokens: Largest number of new tokens of all requests together.
        longest_context: Tokens of the longest prompt and completion together.
        first_prompts: Tokens of each prompt in the first batch, partial completions
            included, in the order of service.
        later_buckets: Length buckets of all other prompts.
        has_decode: Whether a request asks for more than one new token.
        wants_logprobs: Whether a request asks for log-probabilities.
        changes_logits: Whether a request has biases, penalties or a grammar.
        look_ahead: Number of requests in the window from which the next is taken.
    """

    num_requests: int
    num_new_tokens: int
    longest_context: int
    first_prompts: tuple[int, ...]
    later_buckets: frozenset[int]
    has_decode: bool
    wants_logprobs: bool
    changes_logits: bool
    look_ahead: int

    def shape(self, strategy: Strategy) -> BatchShape:
        """Returns the shape of the batch, which all requests fit."""
        return BatchShape.of(
            strategy.micro_batch,
            min(strategy.workload.batch, self.num_requests),
            self.first_prompts,
            [self.longest_context],
        )

    def stage_shapes(
        self, strategy: Strategy, head_inputs: HeadInputs
    ) -> list[StageShapes]:
        """Returns the input shapes that stages compile for, those of the first batch first."""
        shape = self.shape(strategy)
        first = StageShapes(
            prefill_rows=shape.prefill_rows,
            num_tokens=shape.num_tokens,
            num_chunks=shape.num_chunks(shape.num_tokens),
            decode_rows=shape.decode_rows,
            num_slots=shape.num_slots,
            has_decode=self.has_decode,
        )
        later = [
            replace(
                first,
                prefill_rows=1,
                num_tokens=num_tokens,
                num_chunks=shape.num_chunks(num_tokens),
                has_decode=False,
            )
            for num_tokens in sorted(self.later_buckets)
        ]
        shapes = [first, *later]
        if self.wants_logprobs:
            # Micro-batches without such a row return tokens alone.
            shapes += [replace(each, output="logprobs") for each in shapes]
        if self.changes_logits:
            shapes += [
                replace(each, output="adjusted", num_head_inputs=width)
                for each in (first, *later)
                for width in head_inputs.widths
            ]
        if self.changes_logits and self.wants_logprobs:
            shapes += [
                replace(
                    each,
                    output="adjusted_logprobs",
                    num_head_inputs=head_inputs.widths[-1],
                )
                for each in (first, *later)
            ]
        return shapes


def summarize_workload(
    requests: Iterable[Request], strategy: Strategy, *, look_ahead: int | None = None
) -> WorkloadSummary | None:
    """Reads requests and summarises them; returns None if there are none.

    Each is dropped once it is counted. The next is taken from a window of `look_ahead`
    requests, by default of a few batches.
    """
    if look_ahead is None:
        look_ahead = _BATCHES_AHEAD * strategy.workload.batch
    num_rows = _num_rows(strategy)
    first_prompts: list[int] = []
    later_buckets: set[int] = set()
    num_requests = num_new_tokens = longest_context = 0
    has_decode = wants_logprobs = changes_logits = False
    for request in longest_first(
        requests, lambda request: request.num_left, look_ahead=look_ahead
    ):
        length = len(request.history)
        if num_requests < num_rows:
            first_prompts.append(length)
        else:
            later_buckets.add(bucket_length(length))
        num_requests += 1
        num_new_tokens += request.num_left
        longest_context = max(longest_context, length + request.num_left)
        has_decode = has_decode or request.num_left > 1
        wants_logprobs = wants_logprobs or request.top_logprobs is not None
        changes_logits = changes_logits or request.changes_logits
    if not num_requests:
        return None
    return WorkloadSummary(
        num_requests=num_requests,
        num_new_tokens=num_new_tokens,
        longest_context=longest_context,
        first_prompts=tuple(first_prompts),
        later_buckets=frozenset(later_buckets),
        has_decode=has_decode,
        wants_logprobs=wants_logprobs,
        changes_logits=changes_logits,
        look_ahead=look_ahead,
    )


def longest_first(
    items: Iterable[T], new_tokens: Callable[[T], int], *, look_ahead: int
) -> Iterator[T]:
    """Yields the items with the most new tokens first, within a moving window.

    Otherwise a few long items may remain at the end, with most rows empty. Items with
    as many new tokens keep their order.
    """
    window: list[tuple[int, int, T]] = []
    for index, item in enumerate(items):
        # Indices differ, so items are never compared.
        heapq.heappush(window, (-new_tokens(item), index, item))
        if len(window) == look_ahead:
            yield heapq.heappop(window)[2]
    while window:
        yield heapq.heappop(window)[2]


def _num_rows(strategy: Strategy) -> int:
    """Returns the rows of a full batch, padding included."""
    full = [1] * strategy.workload.batch
    return BatchShape.of(
        strategy.micro_batch, strategy.workload.batch, full, full
    ).num_rows
