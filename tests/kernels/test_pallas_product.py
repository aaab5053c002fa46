"""The Pallas kernel: interpreted against float64, lowered for CUDA, run on a GPU."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.kernels import multiply, serving_layout
from llmpq_jax.kernels.groups import to_groups
from tests.kernels.group_cases import check_product, draw_weight, lowered_for_cuda

TRITON_CALL = "__gpu$xla.gpu.triton"
DTYPES = ["float32", "bfloat16", "float16"]
SEEDS = st.integers(0, 2**32 - 1)


@given(
    rows=st.integers(1, 20).map(lambda count: (count,))
    | st.sampled_from([(2, 3), (1, 1), (150,)]),
    num_groups=st.integers(1, 4),
    group_size=st.sampled_from([32, 64, 96, 128, 160]),
    num_features=st.integers(1, 80).map(lambda half: 2 * half),
    bits=st.sampled_from([4, 8]),
    has_zero_point=st.booleans(),
    has_permutation=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=SEEDS,
)
def test_interpreted_products_agree_with_float64(
    rows,
    num_groups,
    group_size,
    num_features,
    bits,
    has_zero_point,
    has_permutation,
    dtype,
    seed,
):
    generator = np.random.default_rng(seed)
    weight = draw_weight(
        generator,
        num_groups=num_groups,
        group_size=group_size,
        num_features=num_features,
        bits=bits,
        has_zero_point=has_zero_point,
        has_permutation=has_permutation,
    )
    hidden = jnp.asarray(
        generator.standard_normal((*rows, num_groups * group_size), np.float32), dtype
    )
    groups = to_groups(weight, kernel="pallas")
    check_product(jax.jit(multiply)(hidden, groups), hidden, weight)


@pytest.mark.parametrize("bits", [4, 8])
def test_partial_sums_are_added_up(bits):
    """Many groups and few rows and features: the contracted axis is cut."""
    generator = np.random.default_rng(0)
    weight = draw_weight(
        generator, num_groups=24, group_size=64, num_features=40, bits=bits
    )
    hidden = jnp.asarray(generator.standard_normal((1, 24 * 64), np.float32))
    groups = to_groups(weight, kernel="pallas")
    text = lowered_for_cuda(hidden, groups)
    assert re.search(r"tensor<(?!1x)\d+x1x40xf32>", text)
    check_product(multiply(hidden, groups), hidden, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 16, 17, 300])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("has_zero_point", [False, True])
def test_it_lowers_for_cuda_without_a_gpu(dtype, num_rows, bits, has_zero_point):
    weight = draw_weight(
        np.random.default_rng(0),
        num_groups=4,
        group_size=128,
        num_features=200,
        bits=bits,
        has_zero_point=has_zero_point,
    )
    hidden = jnp.ones((num_rows, 512), dtype)
    text = lowered_for_cuda(hidden, to_groups(weight, kernel="pallas"))
    assert text.count(TRITON_CALL) == 1
    assert _converted_weights(text, 512 * 200) == set()


def test_the_search_for_converted_weights_finds_one():
    weight = draw_weight(
        np.random.default_rng(0), num_groups=4, group_size=128, num_features=200, bits=4
    )
    text = lowered_for_cuda(jnp.ones((3, 512), jnp.bfloat16), weight)
    assert TRITON_CALL not in text
    assert _converted_weights(text, 512 * 200) != set()


def _converted_weights(text: str, num_elements: int) -> set[str]:
    """Returns the types of floating-point arrays with as many elements as the weight."""
    types = set(re.findall(r"tensor<((?:\d+x)+)(?:f|bf)\d+>", text))
    return {
        shape
        for shape in types
        if np.prod([int(side) for side in shape[:-1].split("x")]) == num_elements
    }


def test_hidden_states_of_another_width_are_refused():
    weight = draw_weight(
        np.random.default_rng(0), num_groups=2, group_size=32, num_features=8, bits=4
    )
    groups = to_groups(weight, kernel="pallas")
    with pytest.raises(ValueError, match="width 63 and a weight of 64 rows: expected"):
        multiply(jnp.ones((2, 63)), groups)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 7, 16, 33, 300])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("num_groups", [1, 8])
def test_a_gpu_agrees_with_float64(dtype, num_rows, bits, num_groups):
    device = jax.devices("cuda")[0]
    generator = np.random.default_rng(num_rows)
    for num_features in (64, 1000):
        weight = draw_weight(
            generator,
            num_groups=num_groups,
            group_size=128,
            num_features=num_features,
            bits=bits,
        )
        hidden = generator.standard_normal((num_rows, 128 * num_groups), np.float32)
        on_device = jax.device_put(jnp.asarray(hidden, dtype), device)
        served = serving_layout(jax.device_put(weight, device), device=device)
        with jax.default_matmul_precision("highest"):
            found = jax.jit(multiply)(on_device, served)
        check_product(found, on_device, weight)
