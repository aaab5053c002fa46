"""The shapes in which a batch of requests is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_jax.schema.buckets import bucket_length, num_prefill_chunks
from llmpq_jax.schema.workload import MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """The shapes a batch is served in.

    Attributes:
        num_groups: Decode groups, counting those that only fill a prefill up.
        prefill_rows: Rows of a prefill micro-batch.
        decode_rows: Rows of a decode group.
        num_tokens: Slots of a prompt, padding included.
        num_slots: Slots of the cache.
        chunk_tokens: Longer prompts come in chunks of at most so many.
    """

    num_groups: int
    prefill_rows: int
    decode_rows: int
    num_tokens: int
    num_slots: int
    chunk_tokens: int

    @classmethod
    def of(
        cls,
        micro_batch: MicroBatch,
        batch: int,
        prompt_lengths: Sequence[int],
        context_lengths: Sequence[int],
    ) -> BatchShape:
        """Rounds up to whole micro-batches and length buckets.

        Args:
            micro_batch: Of the plan.
            batch: Rows served at a time, at least; fewer where there are fewer.
            prompt_lengths: Tokens of each prompt, in the order they are served.
            context_lengths: Tokens of each prompt and what may follow it.
        """
        num_rows = min(batch, len(prompt_lengths))
        decode_rows = micro_batch.decode
        together = max(1, micro_batch.prefill // decode_rows)
        groups = -(-num_rows // (decode_rows * together)) * together
        num_first = groups * decode_rows
        num_tokens = bucket_length(max(prompt_lengths[:num_first]))
        longest = max(*context_lengths, *prompt_lengths)
        return cls(
            num_groups=groups,
            prefill_rows=micro_batch.prefill,
            decode_rows=decode_rows,
            num_tokens=num_tokens,
            num_slots=max(bucket_length(longest), num_tokens),
            chunk_tokens=micro_batch.chunk_tokens,
        )

    def num_chunks(self, num_tokens: int) -> int:
        """Into how many chunks prompts of a bucket's length are cut."""
        return num_prefill_chunks(num_tokens, self.chunk_tokens)

    @property
    def num_prefills(self) -> int:
        """Prefill micro-batches of the rows that are served first, at most."""
        return -(-self.num_rows // self.prefill_rows)

    @property
    def num_rows(self) -> int:
        """Rows in all, padding included."""
        return self.num_groups * self.decode_rows
