"""The work a plan is made for: a batch of prompts, each continued by new tokens."""

from __future__ import annotations

from llmpq_jax.spec._record import record
from llmpq_jax.spec.buckets import PREFILL_CHUNK_TOKENS


@record
class Workload:
    """A fixed batch, as the paper has it.

    Attributes:
        batch: Prompts served together.
        prompt_length: Tokens of the longest prompt; memory and time count all as long.
        new_tokens: Tokens generated for each prompt at most; the first one comes out
            of prefill, the others out of `new_tokens` − 1 decode steps.
    """

    batch: int
    prompt_length: int
    new_tokens: int

    def __post_init__(self) -> None:
        for name in ("batch", "prompt_length", "new_tokens"):
            value = getattr(self, name)
            if value < 1:
                msg = f"{name} is {value}, expected at least 1"
                raise ValueError(msg)

    @property
    def context_length(self) -> int:
        """Tokens of the longest context, prompt and continuation together."""
        return self.prompt_length + self.new_tokens


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
