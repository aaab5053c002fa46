import subprocess
import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.errors import CheckpointError
from llmpq_jax.quant import QArray, dequantize, quantize
from llmpq_jax.sensitivity.weight_variance import noise_to_signal, weight_variance
from tests.support.tiny_models import CONFIG, write_tiny_model
from tools.random_checkpoints import write_random_checkpoint

low_bits = st.sampled_from((4, 8))
group_sizes = st.sampled_from((32, 64, 128))


@st.composite
def gaussians(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_contracted = draw(st.sampled_from((32, 96, 128, 256)))
    spread_F = generator.uniform(0.1, 10.0, 64)
    noise_CF = generator.standard_normal((num_contracted, 64))
    return (noise_CF * spread_F).astype(np.float32)


@given(gaussians(), low_bits, group_sizes)
def test_agrees_with_the_error_of_the_quantiser_that_serves(weight, bits, group_size):
    """Within five standard deviations of a sum of uniform errors, and one part in n.

    An error uniform on a step S has a square of mean S²/12 and variance S⁴/180. One
    weight of each group, its largest, sets the scale and has no error.
    """
    served = quantize(jnp.asarray(weight), bits=bits, group_size=group_size)
    error = np.asarray(dequantize(served), np.float64) - weight
    scale_GF = np.asarray(served.scale, np.float64)
    group = served.group_size
    noise = group * (scale_GF**2).sum() / 12
    deviation = np.sqrt(group * (scale_GF**4).sum() / 180)
    signal = (weight.astype(np.float64) ** 2).sum()
    estimated = noise_to_signal(weight, bits=bits, group_size=group_size)
    assert estimated == pytest.approx(noise / signal, rel=1e-5)
    tolerance = 1 / group + 5 * deviation / noise
    assert (error**2).sum() / signal == pytest.approx(estimated, rel=tolerance)


@given(gaussians(), group_sizes)
def test_fewer_bits_lose_more(weight, group_size):
    four = noise_to_signal(weight, bits=4, group_size=group_size)
    eight = noise_to_signal(weight, bits=8, group_size=group_size)
    # A group's largest may be below its feature's, but not by 127/7.
    assert four > eight > 0


@given(gaussians(), low_bits, st.sampled_from((1e-15, 2.0**-7, 3.0, 1e15)))
def test_does_not_depend_on_the_unit_of_the_weights(weight, bits, factor):
    scaled = weight * np.float32(factor)
    assert noise_to_signal(scaled, bits=bits) == pytest.approx(
        noise_to_signal(weight, bits=bits), rel=1e-4
    )


@given(low_bits)
def test_zeros_have_no_noise(bits):
    zeros = np.zeros((64, 8), np.float32)
    assert noise_to_signal(zeros, bits=bits) == 0
    half = zeros.copy()
    half[:32] = 1.0
    assert noise_to_signal(half, bits=4, group_size=32) == pytest.approx(1 / 49 / 12)


def test_reads_the_16_bit_types_of_checkpoints():
    weight = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        rounded = weight.astype(dtype)
        assert noise_to_signal(rounded, bits=4) == pytest.approx(
            noise_to_signal(rounded.astype(np.float32), bits=4)
        )


@pytest.mark.parametrize(
    "overrides",
    [
        {"tie_word_embeddings": True, "num_hidden_layers": 2},
        {
            "model_type": "bloom",
            "architectures": ["BloomForCausalLM"],
            "vocab_size": 64,
            "hidden_size": 64,
            "n_layer": 2,
            "n_head": 4,
            "layer_norm_epsilon": 1e-5,
        },
    ],
    ids=["llama", "bloom"],
)
def test_a_layer_is_the_sum_over_its_matrices(tmp_path, overrides):
    config = CONFIG if "n_layer" not in overrides else {}
    write_random_checkpoint(tmp_path, config | overrides)
    folder = tmp_path
    store = WeightStore(CheckpointTensors.open(folder))
    architecture = store.architecture
    layers = []
    found = weight_variance(folder, group_size=32, on_layer=lambda: layers.append(1))
    assert len(layers) == architecture.num_layers
    assert found.method == "weight-variance"
    assert found.fingerprint == model_fingerprint(folder)
    assert (found.group_size, found.rounding) == (32, "nearest")
    assert len(found.layers) == 2 * architecture.num_layers
    for row in found.layers:
        weights = load_weights(store.layer(row.layer, bits=row.bits), group_size=32)
        exact = load_weights(store.layer(row.layer, bits=16))
        assert row.omega == pytest.approx(_sum(weights, exact), rel=1e-4)
    head = load_weights(store.head(bits=8))
    exact = load_weights(store.head(bits=16))
    assert found.head_8 == pytest.approx(_sum(head, exact), rel=1e-4)
    assert found.omega(0, 16) == 0


def _sum(weights, exact):
    """Adds up what the served integers' own scales say."""
    total = 0.0
    for name, weight in weights.items():
        if isinstance(weight, QArray):
            scale = np.asarray(weight.scale, np.float64)
            signal = (np.asarray(exact[name], np.float64) ** 2).sum()
            total += weight.group_size * (scale**2).sum() / 12 / signal
    return total


def test_weights_that_are_missing_are_named(tmp_path):
    folder = write_tiny_model(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        weight_variance(folder, group_size=32)


def test_estimating_from_weights_does_not_import_jax():
    code = "import sys, llmpq_jax.sensitivity.weight_variance; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
