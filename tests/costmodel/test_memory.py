"""Memory, term by term, against sums written out by hand."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel import memory
from llmpq_jax.costmodel.workspace import fit_workspace
from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload
from tests.costmodel.records import (
    architecture,
    layer_time,
    measurements,
    vocabulary_layer_time,
)
from tests.referees.stage_memory import stage_memory

MODEL = architecture()
WORKLOAD = Workload(batch=6, prompt_length=20, new_tokens=30)
PAIR = MicroBatch(prefill=2, decode=4)
WORKSPACE = fit_workspace(
    measurements(
        *[
            layer_time(phase, 1, 16, 1.0, bits=bits, workspace=1000 * bits)
            for phase in ("prefill", "decode")
            for bits in (4, 8, 16)
        ],
        vocabulary_layer_time("embedding", 1, 1.0, workspace=40_000),
        vocabulary_layer_time("head", 1, 1.0, bits=8, workspace=50_000),
    ),
    MODEL,
)


def stage(bits, **changes):
    given = {
        "kind": "cpu",
        "bits": bits,
        "is_first": False,
        "is_last": False,
        "workload": WORKLOAD,
        "micro_batch": PAIR,
        "precision": PrecisionChoice(activations="float32", head_bits=8, group_size=32),
        "workspace": WORKSPACE,
    }
    return stage_memory(MODEL, **(given | changes))


def test_weights_are_matrices_with_scales_and_vectors_at_16_bits():
    """Query, key, value, output, up, down; two norms, each with a bias."""
    shapes = [(128, 128), (128, 64), (128, 64), (128, 128), (128, 256), (256, 128)]
    norms = 2 * 2 * 128 * 2
    at_16 = sum(2 * c * f for c, f in shapes) + norms
    at_8 = sum(c * f + 4 * f for c, f in shapes) + norms
    at_4 = sum(c * f // 2 + 4 * f * c // 32 for c, f in shapes) + norms
    assert stage((16, 8, 4)).weights == at_16 + at_8 + at_4


def test_the_cache_holds_keys_and_values_of_every_padded_row():
    """64 tokens for a context of 50, 8 rows for a batch of 6 cut into fours."""
    assert stage((8, 8)).kv_cache == 2 * (2 * 4 * 16 * 64 * 8 * 4)


def test_16_bits_of_cache_are_the_activations_own():
    half = PrecisionChoice(activations="bfloat16", head_bits=8)
    assert stage((8,), precision=half).kv_cache == stage((8,)).kv_cache // 2


def test_8_bits_of_cache_are_a_byte_a_number_and_a_scale_for_each_head_of_a_token():
    """The model has 4 key-value heads of width 16."""
    rounded = PrecisionChoice(activations="float32", head_bits=8, kv_bits=8)
    assert stage((8,), precision=rounded).kv_cache == 2 * 4 * (16 + 4) * 64 * 8


@pytest.mark.parametrize(
    ("prefill", "decode", "rows"),
    [(1, 4, 8), (4, 1, 8), (1, 1, 6), (3, 3, 6), (6, 2, 6)],
)
def test_the_batch_is_padded_to_the_larger_micro_batch(prefill, decode, rows):
    pair = MicroBatch(prefill=prefill, decode=decode)
    assert memory.cache_rows(WORKLOAD, pair) == rows


def test_the_embedding_is_on_the_first_stage_and_the_head_on_the_last():
    tables = 2 * (512 * 128 + 300 * 128)
    head = 128 * 512 + 4 * 512 + 2 * 128 * 2
    assert stage((8,), is_first=True).embedding == tables
    assert stage((8,), is_last=True).head == head
    assert stage((8,)).embedding == stage((8,)).head == 0


def test_workspace_is_the_maximum_that_any_program_needs():
    maximum = WORKSPACE.layer_bytes("cpu", 8, workload=WORKLOAD, micro_batch=PAIR)
    assert stage((4, 8)).workspace == maximum
    with_head = stage((4,), is_last=True).workspace
    assert with_head == WORKSPACE.head_bytes("cpu", 8, micro_batch=PAIR)


def test_a_stage_holds_hidden_states_once_to_send_and_twice_to_receive():
    one = 2 * 32 * 128 * 4
    assert stage((8,), is_first=True).buffers == one
    assert stage((8,)).buffers == stage((8,), is_last=True).buffers == 3 * one


def test_chunks_of_prompts_are_sent_one_by_one():
    pair = MicroBatch(prefill=2, decode=4, chunk_tokens=16)
    assert stage((8,), is_first=True, micro_batch=pair).buffers == 2 * 16 * 128 * 4


@given(st.lists(st.sampled_from([4, 8, 16]), min_size=1), st.booleans(), st.booleans())
def test_the_total_is_the_sum_of_its_terms(bits, is_first, is_last):
    terms = stage(tuple(bits), is_first=is_first, is_last=is_last)
    assert terms.total == sum(
        getattr(terms, field.name) for field in fields(MemoryTerms)
    )


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_two_devices_hold_half_of_each_matrix_and_of_the_cache(bits):
    whole = memory.layer_bytes(MODEL, bits=bits, group_size=128)
    half = memory.layer_bytes(MODEL, bits=bits, group_size=128, tensor=2)
    # What is not cut: norms and, of the matrices cut by rows, the scales.
    repeated = 2 * half - whole
    assert 0 < repeated < 0.1 * whole
    shape = {"workload": WORKLOAD, "micro_batch": PAIR, "activations": "float32"}
    cut = memory.layer_kv_bytes(MODEL, tensor=2, **shape)
    assert 2 * cut == memory.layer_kv_bytes(MODEL, **shape)


def test_terms_read_as_a_list_without_zeros():
    terms = MemoryTerms(
        weights=2048, kv_cache=1 << 20, embedding=0, head=0, workspace=5, buffers=0
    )
    assert str(terms) == "weights 2 KiB, KV cache 1 MiB, workspace 5 B"
