"""Divides the grouped product into programs of a GPU.

A program computes a block of rows × features over a share of the contracted axis. The
choice follows from reasoning, not from timings: enough programs for every multiprocessor,
partial sums that are small compared with the weight, and no more shared memory than any
GPU has.
"""

from __future__ import annotations

from dataclasses import dataclass

MIN_ROWS = 16  # contracted at once by a tensor core's product of 16-bit numbers
# Two for each of an H100's 132 multiprocessors, or an A100's 108.
_WANTED_PROGRAMS = 256
# A block of the fewest rows is bound by memory and wants many loads in flight.
_MIN_BLOCK, _MAX_ROWS, _MAX_FEATURES, _MIN_FEATURES = 16, 64, 128, 32
_MAX_TILE_BYTES = 128  # of one row of hidden states, or of one column of weights
_PARTIAL_SHARE = 4


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The division of one product.

    Attributes:
        rows: Number of rows of hidden states in a program's block.
        features: Number of features in a program's block.
        stored_rows: Number of rows of `GroupArray.values` that are multiplied at once,
            all of one group.
        num_splits: Number of programs that share the contracted axis; if there are
            several, each writes partial sums.
        num_warps: Number of warps of a program.
        num_stages: Number of loads in flight at once.
    """

    rows: int
    features: int
    stored_rows: int
    num_splits: int
    num_warps: int
    num_stages: int


def choose_blocks(
    *,
    num_rows: int,
    num_stored: int,
    num_features: int,
    stored_per_group: int,
    itemsize: int,
) -> Blocks:
    """Chooses the division of a product.

    Stored rows are rows of bytes, C or C/2 in the whole weight; those of a group are a
    multiple of 16. `itemsize` is the bytes of a hidden state.
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
    """Returns the numbers of equal shares that the contracted axis may be cut into.

    A float32 partial sum is written and read, 8 bytes of each row and feature, which
    together may be a quarter of the weight's own bytes.
    """
    maximum = max(1, num_stored // (_PARTIAL_SHARE * 8 * num_rows))
    return [
        count
        for count in range(1, min(maximum, num_steps) + 1)
        if num_steps % count == 0
    ]


def _next_power(count: int) -> int:
    return 1 << (count - 1).bit_length()
