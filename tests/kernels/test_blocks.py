"""The cut of the grouped product, for any sizes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.kernels.blocks import Blocks, choose_blocks

SHARED_BYTES = 99 << 10  # of a program at compute capability 8.6 and 8.9


def shared_bytes(blocks: Blocks, itemsize: int, rows_per_value: int) -> int:
    """Upper bound of a program's shared memory.

    Each stage holds hidden states and packed weights; the weights of one step are held
    once more as the numbers that are multiplied.
    """
    contracted = blocks.stored_rows * rows_per_value
    staged = (
        contracted * blocks.rows * itemsize
        + blocks.stored_rows * blocks.features
        + 5 * blocks.features  # scale and zero point
    )
    return blocks.num_stages * staged + contracted * blocks.features * itemsize


@given(
    num_rows=st.integers(1, 5000),
    num_groups=st.integers(1, 200),
    stored_per_group=st.integers(1, 16).map(lambda units: 16 * units),
    num_features=st.integers(1, 200_000),
    itemsize=st.sampled_from([2, 4]),
    rows_per_value=st.sampled_from([1, 2]),
)
def test_a_cut_covers_the_product_and_fits_every_gpu(
    num_rows, num_groups, stored_per_group, num_features, itemsize, rows_per_value
):
    num_stored = num_groups * stored_per_group
    blocks = choose_blocks(
        num_rows=num_rows,
        num_stored=num_stored,
        num_features=num_features,
        stored_per_group=stored_per_group,
        itemsize=itemsize,
    )
    for side in (blocks.rows, blocks.features, blocks.stored_rows):
        assert side >= 16
        assert side & (side - 1) == 0  # Triton takes powers of two
    assert stored_per_group % blocks.stored_rows == 0
    assert num_stored // blocks.stored_rows % blocks.num_splits == 0
    assert shared_bytes(blocks, itemsize, rows_per_value) <= SHARED_BYTES
    # Partial sums, written and read, cost a quarter of the weight's bytes at most.
    if blocks.num_splits > 1:
        partial_bytes = 8 * blocks.num_splits * num_rows * num_features
        assert 4 * partial_bytes <= num_stored * num_features


def test_one_row_of_a_square_matrix_fills_a_large_gpu():
    for num_features in (1024, 4096, 14336):
        blocks = choose_blocks(
            num_rows=1,
            num_stored=2048,
            num_features=num_features,
            stored_per_group=64,
            itemsize=2,
        )
        assert blocks.rows == 16
        assert -(-num_features // blocks.features) * blocks.num_splits >= 256


def test_many_rows_need_no_partial_sums():
    blocks = choose_blocks(
        num_rows=4096,
        num_stored=2048,
        num_features=4096,
        stored_per_group=64,
        itemsize=2,
    )
    assert (blocks.rows, blocks.features, blocks.num_splits) == (64, 128, 1)
