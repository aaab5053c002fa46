"""What maintainers run for GPUs, on a machine without one."""

from __future__ import annotations

import jax
import pytest
from click.testing import CliRunner

from llmpq_jax.kernels import GroupArray
from llmpq_jax.quant import QArray
from tools import compile_for_gpus
from tools.benchmarks import gpu_kernels


def test_without_a_gpu_nothing_is_timed_and_one_line_says_so():
    result = CliRunner().invoke(gpu_kernels.main)
    assert result.exit_code == 1
    assert result.output.startswith("Error: JAX finds no GPU here, only cpu")
    assert result.output.count("\n") == 1


def test_each_precision_is_timed_and_compared_with_float64(monkeypatch):
    monkeypatch.setattr(gpu_kernels, "CACHED_BYTES", 1)
    device = jax.devices("cpu")[0]
    figures = gpu_kernels.time_products(
        device, (256, 32), (1, 3), activations="bfloat16", repeats=2
    )
    assert [(figure["what"], figure["rows"]) for figure in figures] == [
        (f"{bits} bits", rows) for bits in (16, 8, 4) for rows in (1, 3)
    ]
    for figure in figures:
        assert figure["s"] > 0
        assert figure["flop_per_s"] == 2 * figure["rows"] * 256 * 32 / figure["s"]
        # Products of exact integers, rounded once to bfloat16.
        assert figure.get("error", 0.0) <= 2.0**-8
    assert gpu_kernels.copy_bandwidth(device, 1 << 16) > 0


def test_without_the_cuda_plugin_nothing_is_compiled_and_one_line_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = CliRunner().invoke(compile_for_gpus.main)
    assert result.exit_code == 1
    assert result.output.startswith("Error: JAX has no CUDA plugin here")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("name", compile_for_gpus.GPUS)
def test_what_is_compiled_is_what_the_gpu_is_served(name):
    has_triton = compile_for_gpus.GPUS[name][0] >= 8
    int4 = compile_for_gpus.served_weight(name, 4, group_size=128, size=256)
    int8 = compile_for_gpus.served_weight(name, 8, group_size=256, size=256)
    assert isinstance(int4, GroupArray)
    assert int4.kernel == ("pallas" if has_triton else "xla")
    assert isinstance(int8, QArray if has_triton else GroupArray)
