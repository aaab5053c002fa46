"""Decode groups: the sequences that decode together, and the slots they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llmpq_jax.runtime.batch_shape import BatchShape
from llmpq_jax.runtime.sequence import Sequence
from llmpq_jax.stage.sampling import SamplingRows, greedy_rows, sampling_rows


class BatchSlot(NamedTuple):
    """A sequence's place in the batch.

    Attributes:
        group: Index of a decode group.
        row: Index of a row in it.
    """

    group: int
    row: int


@dataclass(kw_only=True, slots=True, eq=False)
class DecodeGroup:
    """The rows of one decode micro-batch; each stage holds caches for them.

    Attributes:
        sequences: Sequence in each row, None in a row that never had one.
        length_B: Tokens of each row that the caches hold; 0 in a row that is free, whose
            first slots decode steps of the others overwrite.
        token_B: Last token of each row, the input of its next decode step.
        sampling: Sampling parameters of each row.
        prefilling: Rows whose prompt is not computed to its end.
        num_prefills: Prefill micro-batches in flight that fill rows of the group.
        num_steps: Decode steps sent so far.
    """

    sequences: list[Sequence | None]
    length_B: np.ndarray
    token_B: np.ndarray
    sampling: SamplingRows
    prefilling: set[int] = field(default_factory=set)
    num_prefills: int = 0
    num_steps: int = 0

    @classmethod
    def empty(cls, num_rows: int) -> DecodeGroup:
        """Makes a group whose rows are all free."""
        return cls(
            sequences=[None] * num_rows,
            length_B=np.zeros(num_rows, np.int32),
            token_B=np.zeros(num_rows, np.int32),
            sampling=greedy_rows(num_rows),
        )

    @property
    def decoding(self) -> dict[int, Sequence]:
        """Sequences that are not finished and whose prompts are computed, by rows."""
        return {
            row: sequence
            for row in range(len(self.sequences))
            if (sequence := self.decoding_in(row)) is not None
        }

    def active_in(self, row: int) -> Sequence | None:
        """Returns the sequence in a row, or None if there is none or it is finished."""
        sequence = self.sequences[row]
        return None if sequence is None or sequence.is_finished else sequence

    def decoding_in(self, row: int) -> Sequence | None:
        """Returns the active sequence in a row if its prompt is computed."""
        return None if row in self.prefilling else self.active_in(row)

    def release(self, row: int) -> None:
        """Frees a row, which keeps its sequence as the one that it had last."""
        self.prefilling.discard(row)
        self.length_B[row] = 0
        # Drawing takes time, for which one row that draws is enough.
        self._set_sampling(row, greedy_rows(1))

    def _set_sampling(self, row: int, rows: SamplingRows) -> None:
        for array_B, value_1 in zip(self.sampling, rows, strict=True):
            np.asarray(array_B)[row] = np.asarray(value_1)[0]

    def sampling_of(self, row: int) -> SamplingRows:
        """Returns the sampling parameters of one row."""
        return SamplingRows(
            *(np.array(each_B[row : row + 1]) for each_B in self.sampling)
        )

    def assign(self, row: int, sequence: Sequence) -> None:
        """Puts a sequence into a row."""
        self.sequences[row] = sequence
        self.prefilling.add(row)
        choice = sequence.request.sampling
        own = sampling_rows(
            *([choice.temperature], [choice.top_k], [choice.top_p], [choice.seed]),
            min_p=[choice.min_p],
        )
        self._set_sampling(row, own)


def prefill_slots(shape: BatchShape) -> Iterator[list[BatchSlot]]:
    """Yields the slots of each prefill micro-batch of the plan, whole groups or part of one."""
    num_groups = max(1, shape.prefill_rows // shape.decode_rows)
    rows_per_group = shape.prefill_rows // num_groups
    for start in range(0, shape.num_rows, shape.prefill_rows):
        first_group, first_row = divmod(start, shape.decode_rows)
        yield [
            BatchSlot(group, row)
            for group in range(first_group, first_group + num_groups)
            for row in range(first_row, first_row + rows_per_group)
        ]
