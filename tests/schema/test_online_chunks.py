"""How prompts are cut that come at any time."""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.schema.buckets import cut_prompt, online_chunk_sizes


@given(
    st.integers(16, 2000),
    st.integers(16, 3000),
    st.integers(0, 1999),
    st.integers(1, 2000),
)
def test_chunks_cover_a_prompt_and_fit_the_cache(
    chunk_tokens: int, num_slots: int, start: int, length: int
) -> None:
    end = min(start + length, num_slots)
    start = min(start, end)
    sizes = online_chunk_sizes(chunk_tokens, num_slots)
    reached = start
    for first, size in cut_prompt(start, end, sizes=sizes, num_slots=num_slots):
        assert size in sizes
        assert size <= chunk_tokens
        assert 0 <= first <= reached
        assert first + size <= num_slots
        assert reached < end, "each chunk has a token of the prompt"
        reached = first + size
    assert reached >= end


@given(st.integers(1, 511))
def test_a_rest_is_cut_as_cheaply_as_can_be(length: int) -> None:
    sizes = (32, 128, 512)

    @cache
    def cheapest(left: int) -> int:
        if left <= 0:
            return 0
        return min(size + 32 + cheapest(left - size) for size in sizes)

    cut = cut_prompt(0, length, sizes=sizes, num_slots=4096)
    assert sum(size + 32 for _, size in cut) == cheapest(length)
