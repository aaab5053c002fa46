"""The shape in which a batch of requests is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_jax.schema.buckets import bucket_length, num_prefill_chunks
from llmpq_jax.schema.workload import MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchShape:
    """Sizes of the micro-batches and caches of a batch.

    Attributes:
        num_groups: Number of decode groups, including those that only pad a prefill
            micro-batch.
        prefill_rows: Rows of a prefill micro-batch.
        decode_rows: Rows of a decode group.
        num_tokens: Tokens of each of the first prompts, padding included.
        num_slots: Slots of a row's cache.
        chunk_tokens: Largest chunk that longer prompts are cut into, in tokens.
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
        """Returns a batch's shape, in whole micro-batches and length buckets.

        Lengths are tokens of each prompt in the order of service, at most `batch` at a
        time, and of each prompt together with its longest completion.
        """
        num_rows = min(batch, len(prompt_lengths))
        decode_rows = micro_batch.decode
        per_prefill = max(1, micro_batch.prefill // decode_rows)
        num_groups = -(-num_rows // (decode_rows * per_prefill)) * per_prefill
        num_first = num_groups * decode_rows
        num_tokens = bucket_length(max(prompt_lengths[:num_first]))
        longest = max(*context_lengths, *prompt_lengths)
        return cls(
            num_groups=num_groups,
            prefill_rows=micro_batch.prefill,
            decode_rows=decode_rows,
            num_tokens=num_tokens,
            num_slots=max(bucket_length(longest), num_tokens),
            chunk_tokens=micro_batch.chunk_tokens,
        )

    def num_chunks(self, num_tokens: int) -> int:
        """Returns the number of chunks that prompts of a bucket's length are cut into."""
        return num_prefill_chunks(num_tokens, self.chunk_tokens)

    @property
    def num_prefills(self) -> int:
        """Largest number of prefill micro-batches of the first prompts."""
        return -(-self.num_rows // self.prefill_rows)

    @property
    def num_rows(self) -> int:
        """Number of rows in all groups, padding included."""
        return self.num_groups * self.decode_rows
