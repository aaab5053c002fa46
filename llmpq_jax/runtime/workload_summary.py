"""What requests ask for together, and in which order they are served.

Requests may be more than memory holds: they are read twice, once to know the shapes that
all of them fit, and again to be served, each time through the same window.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.strategy import Strategy

T = TypeVar("T")

# Of requests that are read one by one, so many batches are looked at ahead: within them
# the longest come first. More hold more memory and tell the driver little.
_BATCHES_AHEAD = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadSummary:
    """What requests ask for together; all that must be known before one is served.

    Attributes:
        num_requests: How many there are, at least one.
        num_new_tokens: At most, of all together.
        longest_context: Tokens of the longest prompt and continuation together.
        first_prompts: Tokens of each prompt that is there when serving begins, with what
            its request has already, in the order of service.
        later_buckets: Lengths that the others are padded to.
        has_decode: Some want more than one new token.
        wants_logprobs: Some want log-probabilities with their tokens.
        look_ahead: How many requests are held to choose the next among.
    """

    num_requests: int
    num_new_tokens: int
    longest_context: int
    first_prompts: tuple[int, ...]
    later_buckets: frozenset[int]
    has_decode: bool
    wants_logprobs: bool
    look_ahead: int

    def shape(self, strategy: Strategy) -> BatchShape:
        """Returns the shapes that all requests fit."""
        return BatchShape.of(
            strategy.micro_batch,
            min(strategy.workload.batch, self.num_requests),
            self.first_prompts,
            [self.longest_context],
        )


def summarize_workload(
    requests: Iterable[Request], strategy: Strategy, *, look_ahead: int | None = None
) -> WorkloadSummary | None:
    """Reads requests; returns what they ask for, or None where there are none.

    Args:
        requests: Each of them is dropped once it is counted.
        strategy: That is to serve them.
        look_ahead: Requests that are held to choose the next among; by default a few
            batches.
    """
    if look_ahead is None:
        look_ahead = _BATCHES_AHEAD * strategy.workload.batch
    num_rows = _num_rows(strategy)
    first_prompts: list[int] = []
    later_buckets: set[int] = set()
    num_requests = num_new_tokens = longest_context = 0
    has_decode = wants_logprobs = False
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
        look_ahead=look_ahead,
    )


def longest_first(
    items: Iterable[T], new_tokens: Callable[[T], int], *, look_ahead: int
) -> Iterator[T]:
    """Yields of so many items at a time the one that may become longest.

    So no few long ones are left at the end, with most rows empty. Those that are alike
    come as they came; no more than `look_ahead` items are held.
    """
    arriving = enumerate(items)
    window: list[tuple[int, int, T]] = []
    for turn, item in arriving:
        # No two have the same turn, so items are never compared.
        heapq.heappush(window, (-new_tokens(item), turn, item))
        if len(window) == look_ahead:
            yield heapq.heappop(window)[2]
    while window:
        yield heapq.heappop(window)[2]


def _num_rows(strategy: Strategy) -> int:
    """Rows of a full batch, padding included."""
    full = [1] * strategy.workload.batch
    return BatchShape.of(
        strategy.micro_batch, strategy.workload.batch, full, full
    ).num_rows
