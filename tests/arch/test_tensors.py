from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.arch.architecture import Architecture, Rope
from llmpq_jax.arch.tensors import (
    TensorSpec,
    embedding_tensors,
    for_width,
    head_tensors,
    layer_tensors,
    tensor_bytes,
    tensor_widths,
    tensors_bytes,
)
from llmpq_jax.schema.precision import ALL_BITS

LLAMA = Architecture(
    family="llama",
    num_layers=2,
    hidden_size=64,
    intermediate_size=128,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    vocabulary_size=100,
    max_positions=256,
    activation="silu",
    is_gated=True,
    norm="rms",
    norm_eps=1e-5,
    position="rope",
    rope=Rope(theta=10000.0),
    layer_windows=(None, None),
    embedding_size=64,
)
OPT = replace(
    LLAMA,
    family="opt",
    activation="relu",
    is_gated=False,
    norm="layer",
    position="learned",
    rope=None,
    position_offset=2,
    num_kv_heads=8,
    has_qkv_bias=True,
    has_output_bias=True,
    has_mlp_bias=True,
    embedding_size=32,
    ties_head=True,
)


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    num_kv_heads = draw(st.sampled_from((1, 2, 4, 6)))
    return replace(
        draw(st.sampled_from((LLAMA, OPT))),
        hidden_size=draw(st.sampled_from((32, 96, 128))),
        intermediate_size=draw(st.sampled_from((64, 96, 160))),
        num_heads=num_kv_heads * draw(st.integers(min_value=1, max_value=3)),
        num_kv_heads=num_kv_heads,
        head_dim=draw(st.sampled_from((8, 16))),
        has_qk_norm=draw(st.booleans()),
        has_qkv_bias=draw(st.booleans()),
    )


def num_parameters(tensors: tuple[TensorSpec, ...]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)


def test_a_llama_layer_has_the_published_weights():
    shapes = {tensor.name: tensor.shape for tensor in layer_tensors(LLAMA)}
    assert shapes == {
        "attention_norm.weight": (64,),
        "attention.query.weight": (64, 64),
        "attention.key.weight": (64, 32),
        "attention.value.weight": (64, 32),
        "attention.output.weight": (64, 64),
        "mlp_norm.weight": (64,),
        "mlp.gate.weight": (64, 128),
        "mlp.up.weight": (64, 128),
        "mlp.down.weight": (128, 64),
    }
    assert num_parameters(embedding_tensors(LLAMA)) == 100 * 64
    assert num_parameters(head_tensors(LLAMA)) == 64 + 64 * 100


def test_an_opt_layer_has_biases_and_no_gate():
    names = {tensor.name for tensor in layer_tensors(OPT)}
    assert "mlp.gate.weight" not in names
    assert {
        "attention.query.bias",
        "attention.output.bias",
        "mlp.up.bias",
        "mlp.down.bias",
        "mlp_norm.bias",
    } <= names


def test_narrow_embeddings_are_projected_in_and_out():
    inward = {tensor.name: tensor.shape for tensor in embedding_tensors(OPT)}
    outward = {tensor.name: tensor.shape for tensor in head_tensors(OPT)}
    assert inward["positions"] == (258, 64)
    assert inward["project_in.weight"] == (32, 64)
    assert outward["project_out.weight"] == (64, 32)
    assert outward["vocabulary.weight"] == (32, 100)


def test_there_is_an_embedding_norm_if_the_architecture_has_one():
    named = {t.name for t in embedding_tensors(replace(OPT, has_embedding_norm=True))}
    assert {"norm.weight", "norm.bias"} <= named
    assert "norm.weight" not in {t.name for t in embedding_tensors(OPT)}


def test_there_are_query_and_key_norms_if_the_architecture_has_them():
    named = {t.name for t in layer_tensors(replace(LLAMA, has_qk_norm=True))}
    assert {"attention.query_norm.weight", "attention.key_norm.weight"} <= named


@given(architectures())
def test_names_are_unique_and_only_matrices_may_be_quantised(architecture):
    for describe in (embedding_tensors, layer_tensors, head_tensors):
        tensors = describe(architecture)
        assert len({tensor.name for tensor in tensors}) == len(tensors)
        assert all(len(tensor.shape) == 2 for tensor in tensors if tensor.is_matrix)


@given(architectures())
def test_at_16_bits_every_parameter_takes_two_bytes(architecture):
    tensors = layer_tensors(architecture)
    found = tensors_bytes(tensors, bits=16, group_size=128)
    assert found == 2 * num_parameters(tensors)


@given(architectures(), st.sampled_from((8, 4)))
def test_what_is_not_a_matrix_takes_the_same_at_any_precision(architecture, bits):
    for tensor in layer_tensors(architecture):
        if not tensor.is_matrix:
            assert tensor_bytes(tensor, bits=bits, group_size=128) == tensor_bytes(
                tensor, bits=16, group_size=128
            )


@given(architectures(), st.sampled_from(ALL_BITS), st.integers(2, 6))
def test_shards_hold_the_whole_weight_and_repeat_only_scales(architecture, bits, width):
    """Each shard is at least its share; at 16 bits only what is not sharded is repeated."""
    if width not in tensor_widths(architecture, width):
        return
    for tensor in layer_tensors(for_width(architecture, width)):
        whole = tensor_bytes(tensor, bits=bits, group_size=128)
        shard = tensor_bytes(tensor, bits=bits, group_size=128, tensor_width=width)
        if tensor.shard == "whole":
            assert shard == whole
        elif tensor.shard == "columns" or bits == 16:
            assert shard * width == whole
        else:
            assert whole <= shard * width


@given(architectures(), st.integers(min_value=1, max_value=8))
def test_widths_divide_heads_and_rows_evenly(architecture, max_width):
    widths = tensor_widths(architecture, max_width)
    assert widths[0] == 1
    for width in widths:
        served = for_width(architecture, width)
        assert served.num_heads % width == served.num_kv_heads % width == 0
        assert served.num_kv_heads == max(architecture.num_kv_heads, width)
        tensors_bytes(layer_tensors(served), bits=4, group_size=64, tensor_width=width)


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "expected"),
    [
        (8, 1, (1, 2, 4, 8)),
        (8, 2, (1, 2, 4, 8)),
        (14, 2, (1, 2, 14)),
        (9, 3, (1, 3, 9)),
        (12, 4, (1, 2, 4, 12)),
        (32, 8, (1, 2, 4, 8, 16, 32)),
    ],
)
def test_key_value_heads_are_copied_where_devices_outnumber_them(
    num_heads: int, num_kv_heads: int, expected: tuple[int, ...]
) -> None:
    architecture = replace(
        LLAMA,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=8,
        intermediate_size=2 * 32 * 7 * 9,
    )
    assert tensor_widths(architecture, 32) == expected


def test_a_width_that_does_not_divide_a_weight_is_refused():
    tensor = TensorSpec(
        name="mlp.up.weight", shape=(8, 10), is_matrix=True, shard="columns"
    )
    complaint = (
        r"mlp.up.weight of shape \[8, 10\] cannot be cut into 4: expected a tensor width "
        "that divides 10"
    )
    with pytest.raises(ValueError, match=complaint):
        tensor_bytes(tensor, bits=8, group_size=128, tensor_width=4)
