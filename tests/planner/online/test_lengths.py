"""Pairs of lengths become a workload of as many tokens and the same extremes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.planner.online import online_workload
from llmpq_jax.schema.buckets import bucket_length

pairs = st.lists(
    st.tuples(st.integers(1, 3000), st.integers(1, 900)), min_size=1, max_size=300
)


@given(pairs, st.integers(1, 64))
def test_tokens_and_extremes_stay(found: list[tuple[int, int]], batch: int) -> None:
    workload = online_workload(found, batch=batch)
    assert workload.batch == batch
    assert workload.num_prompts >= 8 * batch
    assert workload.lengths is not None
    assert len(workload.lengths) <= 34
    prompts, replies = zip(*found, strict=True)
    assert (workload.prompt_length, workload.new_tokens) == (max(prompts), max(replies))
    assert workload.context_length == max(2, *map(sum, found))
    # Means are rounded; two further prompts are as long as the longest.
    repeats = -(-8 * batch // len(found))
    expected = repeats * sum(replies)
    extra = 1 + max(replies)
    assert abs(workload.expected_new_tokens - expected - extra) <= workload.num_prompts
    padded = sum(prompt * count for prompt, _, count in workload.lengths)
    assert padded >= repeats * sum(prompts) - workload.num_prompts
    longest = bucket_length(max(prompts))
    assert all(prompt <= longest for prompt, _, _ in workload.lengths)
