from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.schema.buckets import (
    BLOCK_TOKENS,
    PREFILL_CHUNK_TOKENS,
    SCORE_BLOCK_BYTES,
    attention_block,
    bucket_length,
    num_prefill_chunks,
    token_block,
)

COUNTS = st.integers(1, 200)
lengths = st.integers(min_value=1, max_value=100_000)


@given(lengths)
def test_a_bucket_holds_its_length_and_is_its_own_bucket(length):
    bucket = bucket_length(length)
    assert bucket >= length
    assert bucket_length(bucket) == bucket


@given(lengths, lengths)
def test_a_longer_prompt_never_has_a_shorter_bucket(first, second):
    shorter, longer = sorted((first, second))
    assert bucket_length(shorter) <= bucket_length(longer)


@given(st.integers(min_value=17, max_value=100_000))
def test_less_than_half_of_a_bucket_is_padding(length):
    assert bucket_length(length) < 2 * length


@given(st.integers(min_value=1025, max_value=100_000))
def test_less_than_a_quarter_of_a_long_bucket_is_padding(length):
    assert bucket_length(length) - length < bucket_length(length) / 4


def test_there_are_few_buckets():
    assert len({bucket_length(length) for length in range(1, 8193)}) == 6 + 14 + 28


@pytest.mark.parametrize("length", [0, -5])
def test_a_length_below_one_is_refused(length):
    complaint = f"a length of {length} tokens has no bucket: expected at least 1"
    with pytest.raises(ValueError, match=complaint):
        bucket_length(length)


@given(lengths, st.integers(min_value=16, max_value=4096))
def test_chunks_are_equal_multiples_of_16_tokens_within_the_limit(length, limit):
    num_tokens = bucket_length(length)
    count = num_prefill_chunks(num_tokens, limit)
    assert num_tokens % count == 0
    assert num_tokens // count <= limit
    assert count == 1 or num_tokens // count % 16 == 0


@given(lengths)
def test_usual_chunks_are_at_least_half_as_long_as_they_may_be(length):
    num_tokens = bucket_length(length)
    chunk = num_tokens // num_prefill_chunks(num_tokens, PREFILL_CHUNK_TOKENS)
    assert chunk >= min(num_tokens, PREFILL_CHUNK_TOKENS // 2)


@pytest.mark.parametrize(("num_tokens", "limit"), [(1000, 512), (1024, 8)])
def test_a_prompt_that_cannot_be_divided_into_chunks_is_refused(num_tokens, limit):
    complaint = f"^{num_tokens} tokens in chunks of {limit}: expected a bucket's length"
    with pytest.raises(ValueError, match=complaint):
        num_prefill_chunks(num_tokens, limit)


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
