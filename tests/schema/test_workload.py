from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.workload import MicroBatch, Workload, workload_of_lengths
from tests.schema import records


@given(records.workloads)
def test_the_longest_context_is_prompt_and_continuation(workload):
    assert workload.context_length == workload.prompt_length + workload.new_tokens


@given(records.micro_batches())
def test_one_micro_batch_is_a_multiple_of_the_other(micro_batch):
    sizes = sorted((micro_batch.prefill, micro_batch.decode))
    assert sizes[1] % sizes[0] == 0


@pytest.mark.parametrize("name", ["batch", "prompt_length", "new_tokens"])
def test_a_workload_without_work_is_refused(name):
    one = Workload(batch=1, prompt_length=1, new_tokens=1)
    with pytest.raises(ValueError, match=f"^{name} is 0, expected at least 1$"):
        replace(one, **{name: 0})


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_an_empty_micro_batch_is_refused(name):
    sizes = {"prefill": 1, "decode": 1} | {name: -2}
    with pytest.raises(ValueError, match=f"^{name} is -2, expected at least 1$"):
        MicroBatch(**sizes)


@pytest.mark.parametrize(("prefill", "decode"), [(2, 3), (3, 2)])
def test_micro_batches_that_share_rows_are_refused(prefill, decode):
    complaint = f"prefill = {prefill} and decode = {decode}: expected one to be a mult"
    with pytest.raises(ValueError, match=complaint):
        MicroBatch(prefill=prefill, decode=decode)


def test_chunks_of_less_than_a_bucket_are_refused():
    complaint = "^chunk_tokens is 15, expected at least 16$"
    with pytest.raises(ValueError, match=complaint):
        MicroBatch(prefill=1, decode=1, chunk_tokens=15)


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.01, float("nan")])
def test_a_fraction_of_the_output_is_above_0_and_at_most_1(fraction):
    message = (
        f"^output_length_fraction is {fraction}, expected more than 0 and at most 1$"
    )
    with pytest.raises(ValueError, match=message):
        Workload(
            batch=1, prompt_length=1, new_tokens=1, output_length_fraction=fraction
        )


@pytest.mark.parametrize("context", [1, 21])
def test_a_context_that_no_prompt_can_reach_is_refused(context):
    message = f"^longest_context is {context}, expected 2 to 20"
    with pytest.raises(ValueError, match=message):
        Workload(batch=1, prompt_length=10, new_tokens=10, longest_context=context)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ((), "lengths: expected rows of three whole numbers from 1 up"),
        (((16, 10, 0),), "lengths: expected rows of three whole numbers from 1 up"),
        (((32, 10, 9),), "lengths: the longest prompt is of 32 tokens: expected 16"),
        (((16, 9, 9),), "lengths: at most 9 new tokens: expected 10"),
        (((16, 10, 3),), "lengths: 3 prompts in all: expected 4 or more, the batch"),
    ],
)
def test_lengths_agree_with_the_longest(lengths, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Workload(batch=4, prompt_length=10, new_tokens=10, lengths=lengths)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 90)), min_size=1),
    st.integers(1, 20),
)
def test_a_workload_of_lengths_counts_each_prompt_and_the_longest(lengths, batch):
    found = workload_of_lengths(lengths, batch=batch)
    assert found.num_prompts == len(lengths)
    assert found.batch == min(batch, len(lengths))
    assert found.context_length == max(map(sum, lengths))
    assert found.expected_new_tokens == sum(new for _, new in lengths)
    assert found.prompt_buckets == tuple(
        sorted({bucket_length(prompt) for prompt, _ in lengths})
    )


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 90)), min_size=1),
    st.integers(1, 300),
    st.integers(1, 90),
)
def test_a_workload_within_limits_is_that_of_prompts_cut_to_them(lengths, prompt, new):
    found = workload_of_lengths(lengths).within(prompt_length=prompt, new_tokens=new)
    cut = workload_of_lengths([(min(p, prompt), min(n, new)) for p, n in lengths])
    assert found.context_length >= cut.context_length
    assert replace(found, longest_context=cut.longest_context) == cut
