"""A prefill in blocks is the prefill all at once."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmpq_jax.model.attention
import llmpq_jax.model.blocks
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.tensors import layer_tensors
from llmpq_jax.checkpoint.host_tensor import HostTensor
from llmpq_jax.model import Context, LayerCache, PromptCache, fresh_context
from llmpq_jax.model.attention import attend, store_and_attend
from llmpq_jax.profiler.stage_bench import random_weight
from llmpq_jax.schema.buckets import token_block
from llmpq_jax.stage.build import build_layer
from llmpq_jax.stage.sharding import StageSharding
from tests.support.tiny_models import CONFIG
from tools.random_checkpoints import write_random_checkpoint

HEADS, KV_HEADS, WIDTH = 4, 2, 8


def draw(generator: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(generator.standard_normal(shape, np.float32))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 4, 1), (1, 4, 2), (2, 2, 0), (3, 1, 0)]),
    st.sampled_from([(1, 8), (2, 8), (1, 4), (1, 1)]),
    st.sampled_from([16, 8]),
    st.sampled_from([(0, 8), (8, 24), (3, 11)]),
)
def test_blocks_of_queries_attend_to_what_is_in_their_cache(
    patch, seed, place, block, kv_bits, slots
):
    """Compared with plain attention over a cache that is assembled by hand."""
    num_groups, rows_per_group, first_row = place
    first_slot, num_slots = slots
    num_tokens, num_rows = 8, num_groups * rows_per_group
    if num_groups == 1:
        num_rows = 2
    per_group = num_rows // num_groups
    rows = block[0] if per_group % block[0] == 0 else 1
    patch.setattr(
        llmpq_jax.model.attention,
        "attention_block",
        lambda *_, **__: (rows, block[1]),
    )
    generator = np.random.default_rng(seed)
    size = (rows_per_group, num_slots + 3, KV_HEADS, WIDTH)
    groups = tuple(
        LayerCache(key=draw(generator, *size), value=draw(generator, *size)).at(kv_bits)
        for _ in range(num_groups)
    )
    query = draw(generator, num_rows, num_tokens, HEADS, WIDTH)
    new = LayerCache(
        key=draw(generator, num_rows, num_tokens, KV_HEADS, WIDTH),
        value=draw(generator, num_rows, num_tokens, KV_HEADS, WIDTH),
    )
    position = jnp.broadcast_to(
        first_slot + jnp.arange(num_tokens), (num_rows, num_tokens)
    )
    context = Context(
        position_BT=position,
        slot_S=jnp.arange(num_slots),
        cosine_BTH=None,
        sine_BTH=None,
    )
    cache = PromptCache(groups, jnp.int32(first_row), first_slot, num_slots)
    mixed, memory = store_and_attend(
        query, new, cache, context, window=None, slopes_N=None
    )

    def by_hand(blocks: list[jax.Array], tokens: jax.Array) -> jax.Array:
        whole = jnp.concatenate(blocks)
        end = first_slot + num_tokens
        return whole.at[first_row : first_row + num_rows, first_slot:end].set(tokens)

    expected = jax.tree.map(
        lambda tokens, *blocks: by_hand(list(blocks), tokens), new.at(kv_bits), *groups
    )
    found = jax.tree.map(lambda *blocks: jnp.concatenate(blocks), *memory.groups)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    seen = expected.rows(first_row, first_row + num_rows).slots(num_slots)
    plain = attend(query, seen, context, window=None, slopes_N=None)
    np.testing.assert_allclose(mixed, plain, atol=2e-6)


@pytest.fixture(scope="module")
def patch():
    """Hypothesis draws many examples for one test, and each sets its own block."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_layer_in_blocks_of_tokens_is_the_layer(monkeypatch, tmp_path, norm, bits):
    write_random_checkpoint(tmp_path, CONFIG, seed=0)
    architecture = replace(read_architecture(tmp_path), norm_position=norm)
    sharding = StageSharding(tuple(jax.devices()[:1]))
    weights = {
        tensor.name: sharding.put_weight(
            HostTensor.of(tensor, random_weight(tensor), bits=bits)
        )
        for tensor in layer_tensors(architecture)
    }
    layer = build_layer(architecture, 0, weights, sharding)
    hidden = draw(np.random.default_rng(0), 3, 16, architecture.hidden_size)
    context = fresh_context(architecture, 3, 16)
    shape = (3, 32, architecture.num_kv_heads, architecture.head_dim)
    empty = LayerCache(key=jnp.zeros(shape), value=jnp.zeros(shape))
    cache = PromptCache((empty,), jnp.int32(0), 0, 16)

    def run(hidden: jax.Array) -> tuple[jax.Array, PromptCache]:
        return layer.prefill(hidden, cache, context)

    assert token_block(48) == 48
    whole = jax.jit(run)(hidden)
    monkeypatch.setattr(llmpq_jax.model.blocks, "token_block", lambda _: 12)
    in_blocks = jax.jit(lambda hidden: run(hidden))(hidden)
    for one, other in zip(
        jax.tree.leaves(whole), jax.tree.leaves(in_blocks), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
