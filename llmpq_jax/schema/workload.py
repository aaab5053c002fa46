"""The workload that a plan is for: prompts, each continued by new tokens."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS, bucket_length
from llmpq_jax.schema.record import record, require_at_most, require_positive

# Far beyond what is served, and low enough that bytes and loops over them stay small.
MAX_LAYERS = 4096
MAX_PROMPTS = 1 << 22
MAX_ROWS = 1 << 20
MAX_TOKENS = 1 << 24
MAX_NEW_TOKENS = 1 << 20
# Of all rows together.
MAX_CACHED_TOKENS = 1 << 36


@record
class Workload:
    """A fixed batch, as in the paper, or prompts of many lengths.

    Attributes:
        batch: Number of prompts served together, at most 2^20; with all tokens of their
            contexts at most 2^36.
        prompt_length: Tokens of the longest prompt. Memory is planned for prompts of this
            length, and so is time if `lengths` is absent. At most 2^24.
        new_tokens: Maximum number of tokens generated per prompt: the first by prefill,
            the others by `new_tokens` − 1 decode steps. At most 2^20.
        output_length_fraction: Expected share of its new tokens that a prompt generates,
            γ in the paper. Time is planned for this share, memory for all new tokens;
            absent for 1.
        lengths: Prompts by length, in the order of service, each [prompt tokens rounded
            up to their bucket, maximum number of new tokens, number of such prompts];
            absent if all are as long as the longest.
        longest_context: Tokens of the longest prompt with its continuation; absent if
            that is `prompt_length` + `new_tokens`.
    """

    batch: int
    prompt_length: int
    new_tokens: int
    output_length_fraction: float | None = None
    lengths: tuple[tuple[int, int, int], ...] | None = None
    longest_context: int | None = None

    def __post_init__(self) -> None:
        require_positive(self)
        require_at_most(
            self,
            batch=MAX_ROWS,
            prompt_length=MAX_TOKENS,
            new_tokens=MAX_NEW_TOKENS,
        )
        if self.batch * (self.prompt_length + self.new_tokens) > MAX_CACHED_TOKENS:
            msg = f"batch is {self.batch} of contexts of up to {self.prompt_length + self.new_tokens} tokens: expected at most {MAX_CACHED_TOKENS:,} tokens in all"
            raise ValueError(msg)
        fraction = self.output_length_fraction
        if fraction is not None and not 0 < fraction <= 1:
            msg = f"output_length_fraction is {fraction}, expected more than 0 and at most 1"
            raise ValueError(msg)
        maximum = self.prompt_length + self.new_tokens
        if self.longest_context is not None and not 1 < self.longest_context <= maximum:
            msg = f"longest_context is {self.longest_context}, expected 2 to {maximum}, prompt_length and new_tokens together"
            raise ValueError(msg)
        if self.lengths is not None:
            _check_lengths(self, self.lengths)

    @property
    def context_length(self) -> int:
        """Tokens of the longest prompt with its continuation."""
        return self.longest_context or self.prompt_length + self.new_tokens

    @property
    def num_prompts(self) -> int:
        """Number of all prompts; those beyond `batch` take slots that become free."""
        if self.lengths is None:
            return self.batch
        return sum(count for _, _, count in self.lengths)

    @property
    def prompt_buckets(self) -> tuple[int, ...]:
        """Lengths that prompts are padded to, in increasing order."""
        if self.lengths is None:
            return (bucket_length(self.prompt_length),)
        return tuple(sorted({prompt for prompt, _, _ in self.lengths}))

    @property
    def expected_new_tokens(self) -> int:
        """New tokens that all prompts together are expected to generate."""
        served = self.lengths or ((self.prompt_length, self.new_tokens, self.batch),)
        return sum(count * self.expected(tokens) for _, tokens, count in served)

    def within(
        self,
        *,
        batch: int | None = None,
        prompt_length: int | None = None,
        new_tokens: int | None = None,
    ) -> Workload:
        """Returns the workload with the batch and every prompt reduced to these limits."""
        prompt = min(self.prompt_length, prompt_length or self.prompt_length)
        new = min(self.new_tokens, new_tokens or self.new_tokens)
        lengths, context = self.lengths, self.longest_context
        if lengths is not None:
            longest = bucket_length(prompt)
            counts: Counter[tuple[int, int]] = Counter()
            for own_prompt, own_new, count in lengths:
                counts[min(own_prompt, longest), min(own_new, new)] += count
            lengths = _in_order_of_service(counts)
        return replace(
            self,
            batch=min(self.batch, batch or self.batch),
            prompt_length=prompt,
            new_tokens=new,
            lengths=lengths,
            longest_context=None if context is None else min(context, prompt + new),
        )

    def expected(self, new_tokens: int) -> int:
        """Returns the expected number of generated tokens, given the maximum number."""
        fraction = self.output_length_fraction
        return new_tokens if fraction is None else max(1, round(fraction * new_tokens))


def _check_lengths(
    workload: Workload, lengths: tuple[tuple[int, int, int], ...]
) -> None:
    if not lengths or min(min(row) for row in lengths) < 1:
        msg = "lengths: expected rows of three whole numbers from 1 up, one row or more"
        raise ValueError(msg)
    if workload.num_prompts > MAX_PROMPTS:
        msg = f"lengths: {reprlib.repr(workload.num_prompts)} prompts in all: expected at most {MAX_PROMPTS:,}"
        raise ValueError(msg)
    longest = max(prompt for prompt, _, _ in lengths)
    if longest != bucket_length(workload.prompt_length):
        msg = f"lengths: the longest prompt is of {longest} tokens: expected {bucket_length(workload.prompt_length)}, the bucket of prompt_length"
        raise ValueError(msg)
    maximum = max(new_tokens for _, new_tokens, _ in lengths)
    if maximum != workload.new_tokens:
        msg = f"lengths: at most {maximum} new tokens: expected {workload.new_tokens}, the value of new_tokens"
        raise ValueError(msg)
    if workload.batch > workload.num_prompts:
        msg = f"lengths: {workload.num_prompts} prompts in all: expected {workload.batch} or more, the batch"
        raise ValueError(msg)


def workload_of_lengths(
    lengths: Iterable[tuple[int, int]],
    *,
    batch: int | None = None,
    output_length_fraction: float | None = None,
) -> Workload:
    """Makes a workload of prompts, in the order of service.

    Args:
        lengths: Tokens and maximum number of new tokens of each prompt, in any order.
        batch: Number of prompts served together; by default all of them.
        output_length_fraction: Expected share of its new tokens that a prompt generates;
            None for 1.
    """
    each = list(lengths)
    counts = Counter((bucket_length(prompt), new) for prompt, new in each)
    return Workload(
        batch=min(batch or len(each), len(each)),
        prompt_length=max(prompt for prompt, _ in each),
        new_tokens=max(new for _, new in each),
        output_length_fraction=output_length_fraction,
        lengths=_in_order_of_service(counts),
        longest_context=max(prompt + new for prompt, new in each),
    )


def _in_order_of_service(
    counts: Counter[tuple[int, int]],
) -> tuple[tuple[int, int, int], ...]:
    """Returns prompts with the most new tokens first; among equal ones, the longest first.

    The scheduler keeps equal ones in the order of the file. Here the longest come first,
    because the first prefills are padded to their longest prompt.
    """
    ordered = sorted(counts.items(), key=lambda row: (-row[0][1], -row[0][0]))
    return tuple((prompt, new, count) for (prompt, new), count in ordered)


@record
class MicroBatch:
    """Sizes of the micro-batches that the batch is divided into.

    Attributes:
        prefill: Number of prompts per prefill micro-batch, at most 2^20.
        decode: Number of rows per decode micro-batch, at most 2^20; a multiple or a
            divisor of `prefill`.
        chunk_tokens: Maximum tokens of a prompt computed at once; longer prompts are
            computed in chunks.
    """

    prefill: int
    decode: int
    chunk_tokens: int = PREFILL_CHUNK_TOKENS

    def __post_init__(self) -> None:
        require_positive(self)
        require_at_most(
            self, prefill=MAX_ROWS, decode=MAX_ROWS, chunk_tokens=MAX_TOKENS
        )
        if self.chunk_tokens < 16:
            msg = f"chunk_tokens is {self.chunk_tokens}, expected at least 16"
            raise ValueError(msg)
        larger, smaller = max(self.prefill, self.decode), min(self.prefill, self.decode)
        if larger % smaller:
            msg = f"prefill = {self.prefill} and decode = {self.decode}: expected one to be a multiple of the other, so that caches are filled by whole rows"
            raise ValueError(msg)
