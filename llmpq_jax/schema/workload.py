"""The work a plan is made for: prompts, each continued by new tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS, bucket_length
from llmpq_jax.schema.record import record


@record
class Workload:
    """A fixed batch, as the paper has it, or prompts of many lengths.

    Attributes:
        batch: Prompts served together.
        prompt_length: Tokens of the longest prompt; memory counts all as long, and so
            does time where `lengths` is absent.
        new_tokens: Tokens generated for each prompt at most; the first one comes out
            of prefill, the others out of `new_tokens` − 1 decode steps.
        output_length_fraction: The share of its new tokens that a prompt is expected to
            want, the paper's γ: time is planned for that share, memory for all of them;
            absent for 1.
        lengths: What is to be served where prompts differ: [prompt tokens rounded up to
            their bucket, new tokens at most, how many such prompts], in the order of
            service; absent where all are as long as the longest.
        longest_context: Tokens of the longest prompt and continuation together; absent
            where that is `prompt_length` + `new_tokens`.
    """

    batch: int
    prompt_length: int
    new_tokens: int
    output_length_fraction: float | None = None
    lengths: tuple[tuple[int, int, int], ...] | None = None
    longest_context: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "prompt_length", "new_tokens"):
            value = getattr(self, name)
            if value < 1:
                msg = f"{name} is {value}, expected at least 1"
                raise ValueError(msg)
        fraction = self.output_length_fraction
        if fraction is not None and not 0 < fraction <= 1:
            msg = f"output_length_fraction is {fraction}, expected more than 0 and at most 1"
            raise ValueError(msg)
        most = self.prompt_length + self.new_tokens
        if self.longest_context is not None and not 1 < self.longest_context <= most:
            msg = f"longest_context is {self.longest_context}, expected 2 to {most}, prompt_length and new_tokens together"
            raise ValueError(msg)
        if self.lengths is not None:
            _check_lengths(self, self.lengths)

    @property
    def context_length(self) -> int:
        """Tokens of the longest context, prompt and continuation together."""
        return self.longest_context or self.prompt_length + self.new_tokens

    @property
    def num_prompts(self) -> int:
        """Prompts in all; those beyond `batch` take the places of others that end."""
        if self.lengths is None:
            return self.batch
        return sum(count for _, _, count in self.lengths)

    @property
    def prompt_buckets(self) -> tuple[int, ...]:
        """Lengths that prompts are padded to, each once, shortest first."""
        if self.lengths is None:
            return (bucket_length(self.prompt_length),)
        return tuple(sorted({prompt for prompt, _, _ in self.lengths}))

    @property
    def expected_new_tokens(self) -> int:
        """Tokens that all prompts together are expected to want."""
        served = self.lengths or ((self.prompt_length, self.new_tokens, self.batch),)
        return sum(count * self.expected(tokens) for _, tokens, count in served)

    def within(
        self,
        *,
        batch: int | None = None,
        prompt_length: int | None = None,
        new_tokens: int | None = None,
    ) -> Workload:
        """Returns the same prompts, none larger than these limits, fewer at a time."""
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
        """Returns how many of so many new tokens a prompt is expected to want."""
        fraction = self.output_length_fraction
        return new_tokens if fraction is None else max(1, round(fraction * new_tokens))


def _check_lengths(
    workload: Workload, lengths: tuple[tuple[int, int, int], ...]
) -> None:
    if not lengths or min(min(row) for row in lengths) < 1:
        msg = "lengths: expected rows of three whole numbers from 1 up, one at least"
        raise ValueError(msg)
    longest = max(prompt for prompt, _, _ in lengths)
    if longest != bucket_length(workload.prompt_length):
        msg = f"lengths: the longest prompt is of {longest} tokens: expected {bucket_length(workload.prompt_length)}, the bucket of prompt_length"
        raise ValueError(msg)
    most = max(new_tokens for _, new_tokens, _ in lengths)
    if most != workload.new_tokens:
        msg = f"lengths: {most} new tokens at most: expected {workload.new_tokens}, as new_tokens says"
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
    """Makes a workload of each prompt's tokens and of its new tokens at most.

    They are put in the order of service.
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
    """Those that may become longest first, and of those alike the longest prompts.

    So the driver has it, but that those alike come as they stand in the file; the first
    ones are padded to their longest.
    """
    ordered = sorted(counts.items(), key=lambda row: (-row[0][1], -row[0][0]))
    return tuple((prompt, new, count) for (prompt, new), count in ordered)


@record
class MicroBatch:
    """How the batch is cut, phase by phase.

    Attributes:
        prefill: Prompts per prefill micro-batch.
        decode: Rows per decode micro-batch; one is a multiple of the other.
        chunk_tokens: Longer prompts are computed in chunks of at most so many tokens.
    """

    prefill: int
    decode: int
    chunk_tokens: int = PREFILL_CHUNK_TOKENS

    def __post_init__(self) -> None:
        for name in ("prefill", "decode"):
            value = getattr(self, name)
            if value < 1:
                msg = f"{name} is {value}, expected at least 1"
                raise ValueError(msg)
        if self.chunk_tokens < 16:
            msg = f"chunk_tokens is {self.chunk_tokens}, expected at least 16"
            raise ValueError(msg)
        larger, smaller = max(self.prefill, self.decode), min(self.prefill, self.decode)
        if larger % smaller:
            msg = (
                f"prefill = {self.prefill} and decode = {self.decode}: expected one to "
                "be a multiple of the other, so that caches are filled by whole rows"
            )
            raise ValueError(msg)
