"""Checks whether a strategy can serve requests, and whether its stages fit their memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.errors import ContextLengthError, RequestError, StrategyError
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.units import format_bytes

if TYPE_CHECKING:
    from llmpq_jax.runtime.batch_shape import BatchShape
    from llmpq_jax.stage.worker import StageFacts


def check_request(
    request: Request, strategy: Strategy, architecture: Architecture
) -> None:
    """Refuses a request that a strategy cannot serve in a batch.

    Raises:
        ContextLengthError: If its prompt or its context is too long.
        RequestError: If a token is not in the vocabulary.
    """
    length = len(request.token_ids)
    max_prompt = bucket_length(strategy.workload.prompt_length)
    if length > max_prompt:
        msg = f"the prompt has {length} tokens: expected at most {max_prompt}, which the strategy plans for; shorten it or solve with a larger --prompt-length"
        raise ContextLengthError(msg)
    check_context(request, strategy, architecture)


def max_context(strategy: Strategy, architecture: Architecture) -> int:
    """Returns the largest number of tokens of a prompt and its continuation together."""
    planned = bucket_length(strategy.workload.context_length)
    limit = architecture.position_limit
    # The last new token is never read.
    return planned if limit is None else min(planned, limit + 1)


def check_context(
    request: Request, strategy: Strategy, architecture: Architecture
) -> None:
    """Refuses a request that a strategy has no room for.

    Raises:
        ContextLengthError: If its context is too long.
        RequestError: If a token is not in the vocabulary.
    """
    workload = strategy.workload
    length = len(request.token_ids)
    planned = bucket_length(workload.context_length)
    if length + request.max_new_tokens > planned:
        msg = f"the prompt has {length} tokens and {request.max_new_tokens} new ones are requested: expected at most {planned} together, which the strategy plans for; request fewer or solve with a larger --new-tokens"
        raise ContextLengthError(msg)
    limit = architecture.position_limit
    # The last new token is never read.
    if limit is not None and length + request.max_new_tokens - 1 > limit:
        msg = f"the prompt has {length} tokens and {request.max_new_tokens} new ones are requested: expected at most {limit + 1} together, since the model has {limit} positions; request fewer"
        raise ContextLengthError(msg)
    biased = (token for token, _ in request.logit_changes.bias)
    unknown = [
        token
        for token in (*request.token_ids, *biased)
        if not 0 <= token < architecture.vocabulary_size
    ]
    if unknown:
        msg = f"token {unknown[0]} is outside the model's vocabulary of {architecture.vocabulary_size}: expected 0 to {architecture.vocabulary_size - 1}; use the model's own tokenizer"
        raise RequestError(msg)


def check_memory(
    strategy: Strategy, facts: Sequence[StageFacts], shape: BatchShape
) -> None:
    """Refuses a strategy, perhaps edited by hand, with a stage that does not fit.

    Raises:
        StrategyError: If weights and caches of a stage exceed the memory it may use.
    """
    for stage, each in zip(strategy.stages, facts, strict=True):
        if stage.predicted is None:
            continue
        needed = each.memory_bytes(num_rows=shape.num_rows, num_slots=shape.num_slots)
        allowed = stage.predicted.allowed_bytes
        if needed > allowed:
            msg = f"the stage on {', '.join(stage.devices)} needs {format_bytes(needed)} for weights and cache, it may use {format_bytes(allowed)}: solve again with a smaller batch or fewer bits"
            raise StrategyError(msg)
