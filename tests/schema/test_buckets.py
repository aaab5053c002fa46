from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.schema.buckets import (
    PREFILL_CHUNK_TOKENS,
    bucket_length,
    num_prefill_chunks,
)

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
