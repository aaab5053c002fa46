"""The native kernels against float64, on every path this processor can run."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.kernels import (
    PanelArray,
    kernel_path,
    multiply_together,
    serve_matrix,
    serving_layout,
)
from llmpq_jax.kernels.native import KERNELS
from llmpq_jax.kernels.panels import PANEL, ROWS_PER_WORD, to_panels
from llmpq_jax.quant import quantize
from tests.kernels.native_cases import check_attention, check_product
from tests.referees.quantized_product import reference_weight

pytestmark = pytest.mark.skipif(
    kernel_path("cpu") == "xla", reason="there is no native library: no C++ compiler"
)
DTYPES = st.sampled_from(["float32", "bfloat16", "float16"])
CPU = jax.devices("cpu")[0]
SEEDS = st.integers(0, 2**32 - 1)


@given(
    num_rows=st.integers(1, 40) | st.integers(1, 150),
    num_contracted=st.sampled_from([8, 24, 32, 64, 200, 512]),
    features=st.lists(
        st.integers(1, 40).map(lambda half: 2 * half), min_size=1, max_size=3
    ),
    bits=st.sampled_from([4, 8, 16]),
    dtype=DTYPES,
    seed=SEEDS,
)
def test_products_agree_with_float64(**case):
    check_product(**case)


@given(
    num_features=st.integers(1, 40).map(lambda half: 2 * half),
    num_contracted=st.sampled_from([8, 24, 32, 64, 200, 256]),
    bits=st.sampled_from([4, 8, 16]),
    dtype=DTYPES,
    exponent=st.sampled_from([-40, -20, 0, 12]),
    seed=SEEDS,
)
def test_rounding_into_panels_is_rounding_and_laying_out(
    num_features, num_contracted, bits, dtype, exponent, seed
):
    generator = np.random.default_rng(seed)
    matrix = generator.standard_normal((num_features, num_contracted), np.float32)
    matrix *= 2.0**exponent * generator.integers(0, 2, (num_features, 1))
    stored = np.asarray(jnp.asarray(matrix, "bfloat16" if bits == 16 else dtype))
    served = serve_matrix(stored.T, bits=bits, group_size=128, device=CPU)
    weight = jnp.asarray(stored.T)
    if bits != 16:
        weight = quantize(weight, bits=bits, group_size=128)
    expected = to_panels(weight)
    assert isinstance(served, PanelArray)
    assert served.num_padding == expected.num_padding
    assert served.values.dtype == expected.values.dtype
    np.testing.assert_array_equal(np.asarray(served.values), expected.values)
    np.testing.assert_array_equal(np.asarray(served.scale), expected.scale)


@given(
    num_rows=st.integers(1, 5),
    num_slots=st.integers(1, 200),
    num_kv_heads=st.integers(1, 3),
    shared=st.integers(1, 4),
    head_dim=st.sampled_from([1, 4, 8, 20, 64, 80]),
    window=st.none() | st.integers(1, 100),
    has_slopes=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    kv_bits=st.sampled_from([8, 16]),
    seed=SEEDS,
)
def test_attention_agrees_with_float64(**case):
    check_attention(**case)


@pytest.mark.parametrize("path", KERNELS)
def test_every_path_agrees(path):
    """In a process of its own: the choice of kernels is made once."""
    code = f"""
from tests.kernels.native_cases import check_attention, check_product
from llmpq_jax.kernels import kernel_path
assert kernel_path("cpu") == "native-{path}"
for bits in (4, 8, 16):
    for num_rows in (1, 2, 5, 7, 20, 33, 50, 150):
        for dtype in ("float32", "bfloat16"):
            check_product(num_rows=num_rows, num_contracted=64, features=[34, 16],
                          bits=bits, dtype=dtype, seed=num_rows)
for window in (None, 50):
    for kv_bits in (8, 16):
        check_attention(num_rows=3, num_slots=150, num_kv_heads=2, shared=3,
                        head_dim=20, window=window, has_slopes=True, dtype="bfloat16",
                        seed=1, kv_bits=kv_bits)
"""
    run = _run_with(code, path)
    if path != "portable" and "names kernels that are not here" in run.stderr:
        pytest.skip(f"this processor has no {path}")
    assert run.returncode == 0, run.stderr


def test_unknown_kernels_are_refused():
    run = _run_with("from llmpq_jax.cli import main; main()", "sse9", *_EXAMPLE)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(
        "error: environment: LLMPQ_JAX_KERNELS=sse9 names kernels that are not here"
    )


_EXAMPLE = (
    "generate",
    "--strategy",
    "strategies/tiny-two-cpu/strategy.toml",
    "--prompt=a",
)


def _run_with(code: str, path: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LLMPQ_JAX_KERNELS": path, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_panels_hold_the_integers_unchanged(bits):
    weight = quantize(
        jnp.asarray(np.random.default_rng(0).normal(size=(64, 40))), bits=bits
    )
    panels = serving_layout(weight, device=CPU)
    assert isinstance(panels, PanelArray)
    assert (panels.num_contracted, panels.num_features) == (64, 40)
    values = np.asarray(panels.values)
    if bits == 4:
        rows = [(values >> (4 * row)) & 15 for row in range(ROWS_PER_WORD)]
        rows[:-1] = [row.astype(np.int64) - 8 for row in rows[:-1]]
        last = rows[-1].astype(np.int64)
        rows[-1] = np.where(last >= 8, last - 16, last)
        values = np.stack(rows, axis=2).reshape(values.shape[0], -1, PANEL)
    scale = np.repeat(np.asarray(panels.scale), 64 // panels.num_groups, axis=1)
    found = (values * scale.astype(np.float64)).swapaxes(0, 1).reshape(64, -1)
    assert (found[:, :40] == reference_weight(weight)).all()
    assert (found[:, 40:] == 0).all()
    assert panels.nbytes == weight.nbytes * 48 // 40


def test_panels_hold_sixteen_bits_unchanged():
    weight = jnp.asarray(np.random.default_rng(0).normal(size=(24, 40)), jnp.bfloat16)
    panels = serving_layout(weight, device=CPU)
    assert isinstance(panels, PanelArray)
    assert (panels.num_contracted, panels.num_features) == (24, 40)
    found = np.asarray(panels.values).swapaxes(0, 1).reshape(24, -1)
    assert (found[:, :40] == np.asarray(weight)).all()
    assert (found[:, 40:] == 0).all()
    assert panels.nbytes == weight.nbytes * 48 // 40


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_odd_row_is_multiplied_too(dtype):
    for bits in (8, 16):
        check_product(
            num_rows=17, num_contracted=41, features=[6], bits=bits, dtype=dtype, seed=0
        )


def test_what_panels_cannot_hold_stays_as_it_is():
    generator = np.random.default_rng(0)
    weight = quantize(jnp.asarray(generator.normal(size=(64, 48))), bits=8)
    assert serving_layout(weight, device=SimpleNamespace(platform="tpu")) is weight
    assert serving_layout(weight, device=CPU, num_cuts=2) is weight
    assert isinstance(serving_layout(weight, device=CPU, num_cuts=3), PanelArray)
    shuffled = replace(weight, permutation=jnp.arange(64))
    assert serving_layout(shuffled, device=CPU) is shuffled
    ragged = quantize(jnp.asarray(generator.normal(size=(20, 16))), bits=4)
    assert ragged.group_size == 20
    assert serving_layout(ragged, device=CPU) is ragged
    for dtype in (jnp.float32, jnp.float16):
        wide = jnp.ones((64, 48), dtype)
        assert serving_layout(wide, device=CPU) is wide


def test_weights_of_different_bits_are_multiplied_one_by_one():
    generator = np.random.default_rng(0)
    hidden = jnp.asarray(generator.normal(size=(3, 64)).astype(np.float32))
    plain = [
        quantize(jnp.asarray(generator.normal(size=(64, 32))), bits=bits)
        for bits in (8, 4)
    ]
    panels = [serving_layout(weight, device=CPU) for weight in plain]
    for found, weight in zip(multiply_together(hidden, panels), plain, strict=True):
        expected = np.asarray(hidden, np.float64) @ reference_weight(weight)
        assert np.asarray(found) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_wrong_call_is_refused_and_nothing_is_read():
    panels = serving_layout(quantize(jnp.ones((64, 32)), bits=8), device=CPU)
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="do not match"):
        jax.block_until_ready(multiply_together(jnp.ones((2, 63)), [panels]))
