"""Blocks divide what they are blocks of, and are as large as they may be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.schema.prefill_blocks import (
    BLOCK_TOKENS,
    SCORE_BLOCK_BYTES,
    attention_block,
    token_block,
)

COUNTS = st.integers(1, 200)


@given(st.integers(1, 20_000))
def test_tokens_are_divided_into_the_largest_even_blocks(num_tokens):
    size = token_block(num_tokens)
    larger = range(size + 1, min(num_tokens, BLOCK_TOKENS) + 1)
    assert num_tokens % size == 0
    assert size <= BLOCK_TOKENS
    assert all(num_tokens % other for other in larger)


@given(COUNTS, COUNTS, st.integers(1, 128), st.integers(1, 40_000))
def test_scores_of_a_block_fit_unless_those_of_one_token_do_not(
    rows, tokens, heads, slots
):
    size = {"num_heads": heads, "num_slots": slots}
    some_rows, some_tokens = attention_block(rows, tokens, **size)
    assert rows % some_rows == 0
    assert tokens % some_tokens == 0
    scores = 4 * some_rows * some_tokens * heads * slots
    assert scores <= SCORE_BLOCK_BYTES or some_rows == some_tokens == 1
    # A part of a row is never taken together with another row.
    assert some_rows == 1 or some_tokens == tokens


def test_small_prompts_attend_in_one_block():
    assert attention_block(8, 64, num_heads=16, num_slots=64) == (8, 64)
    assert attention_block(8, 512, num_heads=16, num_slots=512) == (1, 256)
