"""The product for GPUs without Triton, whatever the number of rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.kernels import multiply
from llmpq_jax.kernels.groups import to_groups
from llmpq_jax.kernels.reduced_product import MAX_REDUCED_ROWS
from tests.kernels.group_cases import check_product, draw_weight, lowered_for_cuda
from tests.kernels.native_cases import UNIT
from tests.referees.quantized_product import reference_product, reference_weight


@st.composite
def weights(draw: st.DrawFn):
    """Weights of any groups, with their generator."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = draw_weight(
        generator,
        num_groups=draw(st.integers(1, 4)),
        group_size=draw(st.sampled_from([8, 20, 32, 64])),
        num_features=2 * draw(st.integers(1, 20)),
        bits=draw(st.sampled_from([4, 8])),
        has_zero_point=draw(st.booleans()),
        has_permutation=draw(st.booleans()),
    )
    return generator, weight


@given(
    weights(),
    st.integers(1, MAX_REDUCED_ROWS),
    st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_few_rows_agree_with_float64(pair, num_rows, dtype):
    generator, weight = pair
    shape = (num_rows, weight.num_contracted)
    hidden = jnp.asarray(generator.standard_normal(shape, np.float32), dtype)
    check_product(
        jax.jit(multiply)(hidden, to_groups(weight, kernel="xla")), hidden, weight
    )


@given(weights(), st.integers(MAX_REDUCED_ROWS + 1, 40))
def test_many_rows_of_float32_agree_with_float64(pair, num_rows):
    generator, weight = pair
    shape = (num_rows, weight.num_contracted)
    hidden = jnp.asarray(generator.standard_normal(shape, np.float32))
    check_product(
        jax.jit(multiply)(hidden, to_groups(weight, kernel="xla")), hidden, weight
    )


@given(
    weights(),
    st.integers(MAX_REDUCED_ROWS + 1, 40),
    st.sampled_from(["bfloat16", "float16"]),
    st.sampled_from([-60, -20, 0, 60]),
)
def test_many_rows_agree_within_the_rounding_of_float16(
    pair, num_rows, dtype, exponent
):
    """Rows as large and as small as bfloat16 has them neither overflow nor vanish."""
    generator, weight = pair
    shape = (2, -(-num_rows // 2), weight.num_contracted)
    drawn = generator.standard_normal(shape, np.float32)
    hidden = jnp.asarray(drawn * 2.0 ** (exponent if dtype == "bfloat16" else 0), dtype)
    found = jax.jit(multiply)(hidden, to_groups(weight, kernel="xla"))
    wide = np.asarray(hidden, np.float64)
    expected = reference_product(wide, weight)
    magnitude = np.abs(wide) @ np.abs(reference_weight(weight))
    # A weight is rounded to float16 in units of its feature's largest scale, and a number
    # below the normal ones by half of 2⁻²⁴; sums round as in float32.
    largest = np.asarray(weight.scale, np.float64).max(axis=0)
    bound = (UNIT["float16"] + (weight.num_contracted + 8) * UNIT["float32"]) * (
        magnitude + 2.0**-24 * np.abs(wide).sum(axis=-1, keepdims=True) * largest
    )
    bound += 2.0**-25 * np.abs(wide).sum(axis=-1, keepdims=True) * largest
    # bfloat16 rows are exact in float16, but for what is below 2⁻³⁹ of the largest.
    reach = np.abs(reference_weight(weight)).sum(axis=0)
    bound += 2.0**-39 * np.abs(wide).max(axis=-1, keepdims=True) * reach
    bound += UNIT[dtype] * (np.abs(expected) + bound) + 1e-30
    assert found.dtype == hidden.dtype
    assert (np.abs(np.asarray(found, np.float64) - expected) <= bound).all()


@pytest.mark.parametrize("num_rows", [1, MAX_REDUCED_ROWS, MAX_REDUCED_ROWS + 1])
def test_no_operand_of_a_product_is_bfloat16(num_rows):
    weight = draw_weight(
        np.random.default_rng(0), num_groups=4, group_size=64, num_features=40, bits=4
    )
    groups = to_groups(weight, kernel="xla")
    hidden = jnp.ones((num_rows, 256), jnp.bfloat16)
    text = lowered_for_cuda(hidden, groups)
    products = [line for line in text.splitlines() if "stablehlo.dot" in line]
    assert len(products) == (num_rows > MAX_REDUCED_ROWS)
    assert all("xf16>" in line and "bf16" not in line for line in products)


def test_a_row_of_zeros_gives_zeros():
    weight = draw_weight(
        np.random.default_rng(0), num_groups=2, group_size=64, num_features=6, bits=8
    )
    hidden = jnp.zeros((20, 128), jnp.bfloat16)
    found = multiply(hidden, to_groups(weight, kernel="xla"))
    assert (np.asarray(found, np.float32) == 0).all()
