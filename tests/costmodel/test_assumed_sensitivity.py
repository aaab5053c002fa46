"""Assumed losses are those of rounding normal weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.costmodel.assumed_sensitivity import assumed_sensitivity

MODEL = Path(__file__).parents[2] / "strategies" / "models" / "qwen3-0.6b"


@pytest.mark.parametrize(("bits", "num_sharing"), [(8, 1024), (4, 128)])
def test_the_loss_is_the_error_of_rounding_normal_weights(bits, num_sharing):
    found = assumed_sensitivity(
        read_architecture(MODEL), name="qwen", fingerprint="x", group_size=128
    )
    weights = np.random.default_rng(0).normal(size=(num_sharing, 4000))
    scale = np.abs(weights).max(axis=0) / (2 ** (bits - 1) - 1)
    error = np.round(weights / scale) * scale - weights
    # The formula takes the largest weight at a quantile and ignores how it scatters,
    # which is a tenth of it for a hundred weights, squared.
    assert found.omega(0, bits) == pytest.approx((error**2).mean(), rel=0.2)
    assert found.omega(3, bits) == found.omega(0, bits)
    assert found.omega(0, 16) == 0.0
    assert found.head_8 == found.omega(0, 8)
    assert found.wire_8 == found.omega(0, 8)


def test_a_cache_loses_what_rounding_its_heads_does_in_every_layer():
    architecture = read_architecture(MODEL)
    found = assumed_sensitivity(
        architecture, name="qwen", fingerprint="x", group_size=128
    )
    rows = np.random.default_rng(0).normal(size=(4000, architecture.head_dim))
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    error = np.round(rows / scale) * scale - rows
    expected = architecture.num_layers * (error**2).mean()
    assert found.kv_8 == pytest.approx(expected, rel=0.2)
