"""How the grouped product is cut into programs of a GPU.

A program makes a block of rows × features over a share of the contracted axis. What is
chosen here was reasoned, not timed: enough programs for every multiprocessor, partial sums
that cost little beside the weight, and no more shared memory than any GPU has.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_ROWS = 16  # contracted at once by a tensor core's product of 16-bit numbers
# Two for each of an H100's 132 multiprocessors, or an A100's 108.
_WANTED_PROGRAMS = 256
# A block of the least rows is bound by memory and wants many loads on their way.
_MIN_BLOCK, _MAX_ROWS, _MAX_FEATURES, _MIN_FEATURES = 16, 64, 128, 32
_MAX_TILE_BYTES = 128  # of one row of hidden states, or of one column of weights
_PARTIAL_SHARE = 4
SHARED_BYTES = 99 << 10  # what a program may have at compute capability 8.6 and 8.9


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The cut of one product.

    Attributes:
        rows: Of a program.
        features: Of a program.
        stored_rows: Rows of `GroupArray.values` multiplied at once; they lie in one group.
        num_splits: Programs that share the contracted axis; each writes partial sums,
            unless there is one.
        num_warps: Of a program.
        num_stages: Loads on their way at once.
    """

    rows: int
    features: int
    stored_rows: int
    num_splits: int
    num_warps: int
    num_stages: int

    def num_programs(self, num_rows: int, num_features: int) -> int:
        """Returns how many there are."""
        cut = -(-num_rows // self.rows) * -(-num_features // self.features)
        return cut * self.num_splits

    def shared_bytes(self, itemsize: int, rows_per_value: int) -> int:
        """Bounds a program's shared memory.

        Each stage holds hidden states and packed weights; the weights of one step are
        there once more as the numbers that are multiplied.

        Args:
            itemsize: Bytes of a hidden state.
            rows_per_value: Weights to a byte.
        """
        contracted = self.stored_rows * rows_per_value
        staged = (
            contracted * self.rows * itemsize
            + self.stored_rows * self.features
            + 5 * self.features  # scale and zero point
        )
        return self.num_stages * staged + contracted * self.features * itemsize


def choose_blocks(
    *,
    num_rows: int,
    num_stored: int,
    num_features: int,
    stored_per_group: int,
    itemsize: int,
) -> Blocks:
    """Chooses the cut of a product.

    Args:
        num_rows: Of hidden states.
        num_stored: Rows of bytes in the whole weight, C or C/2.
        num_features: F.
        stored_per_group: Rows of bytes in a group, a multiple of 16.
        itemsize: Bytes of a hidden state.
    """
    stored_rows = MIN_ROWS
    while (
        stored_per_group % (2 * stored_rows) == 0
        and 2 * stored_rows * itemsize <= _MAX_TILE_BYTES
    ):
        stored_rows *= 2
    rows = min(_MAX_ROWS, max(_MIN_BLOCK, _next_power(num_rows)))
    features = min(_MAX_FEATURES, max(_MIN_FEATURES, _next_power(num_features)))
    splits = _allowed_splits(num_stored // stored_rows, num_stored, num_rows)

    def num_programs(features: int, num_splits: int) -> int:
        return -(-num_rows // rows) * -(-num_features // features) * num_splits

    while (
        features > _MIN_FEATURES
        and num_programs(features, splits[-1]) < _WANTED_PROGRAMS
    ):
        features //= 2
    enough = (
        count for count in splits if num_programs(features, count) >= _WANTED_PROGRAMS
    )
    return Blocks(
        rows=rows,
        features=features,
        stored_rows=stored_rows,
        num_splits=next(enough, splits[-1]),
        num_warps=4,
        num_stages=4 if rows == _MIN_BLOCK else 2,
    )


def _allowed_splits(num_steps: int, num_stored: int, num_rows: int) -> list[int]:
    """Returns what the contracted axis may be cut into: even shares of its steps.

    A float32 partial sum is written and read, 8 bytes of each row and feature, which
    together may be a quarter of the weight's own bytes.
    """
    most = max(1, num_stored // (_PARTIAL_SHARE * 8 * num_rows))
    return [
        count for count in range(1, min(most, num_steps) + 1) if num_steps % count == 0
    ]


def _next_power(count: int) -> int:
    return 1 << (count - 1).bit_length()
