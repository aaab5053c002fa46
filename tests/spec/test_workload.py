from __future__ import annotations

import pytest
from hypothesis import given

from llmpq_jax.spec.workload import MicroBatch, Workload
from tests.spec import records


@given(records.workloads)
def test_the_longest_context_is_prompt_and_continuation(workload):
    assert workload.context_length == workload.prompt_length + workload.new_tokens


@given(records.micro_batches())
def test_one_micro_batch_is_a_multiple_of_the_other(micro_batch):
    sizes = sorted((micro_batch.prefill, micro_batch.decode))
    assert sizes[1] % sizes[0] == 0


@pytest.mark.parametrize("name", ["batch", "prompt_length", "new_tokens"])
def test_a_workload_without_work_is_refused(name):
    sizes = {"batch": 1, "prompt_length": 1, "new_tokens": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"^{name} is 0, expected at least 1$"):
        Workload(**sizes)


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
