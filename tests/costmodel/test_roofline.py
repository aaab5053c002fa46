"""Rooflines follow their data-sheet figures, and are marked as not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.arch.catalogue import read_catalogue
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.measurement_checks import check_measurements
from llmpq_jax.costmodel.device_roofline import (
    BANDWIDTH_EFFICIENCY,
    FLOPS_EFFICIENCY,
    LAYER_LAUNCH_S,
    NodeInterconnect,
)
from llmpq_jax.costmodel.latency import fit_latency
from llmpq_jax.costmodel.roofline import roofline
from llmpq_jax.schema.workload import Workload

MODELS = Path(__file__).parents[2] / "strategies" / "models"
WORKLOAD = Workload(batch=8, prompt_length=512, new_tokens=100)
KINDS = read_catalogue().kinds


def predict(*kinds, model="opt-30b"):
    return roofline(
        read_architecture(MODELS / model),
        kinds,
        workload=WORKLOAD,
        rows=(1, 2, 4, 8),
        name=model,
    )


def row(measurements, **wanted):
    (found,) = [
        layer
        for layer in measurements.layers
        if all(getattr(layer, name) == value for name, value in wanted.items())
    ]
    return found


@pytest.mark.parametrize("model", sorted(path.name for path in MODELS.iterdir()))
def test_every_shipped_config_is_predicted(model):
    measurements = predict(KINDS[0], model=model)
    check_measurements(measurements, read_architecture(MODELS / model))
    assert {kind.source for kind in measurements.kinds} == {"roofline"}
    latency = fit_latency(measurements)
    for bits in (16, 8, 4):
        assert latency.supports_layer(KINDS[0].name, bits)


def test_prefill_of_many_tokens_takes_as_long_as_its_arithmetic():
    """OPT-30b: 12·h² parameters a layer, two operations each, and attention."""
    kind = read_catalogue().find("A100-40")
    found = row(
        predict(kind), phase="prefill", bits=16, kv_bits=16, batch=8, kind=kind.name
    )
    tokens, hidden = 8 * 512, 7168
    operations = 2 * 12 * hidden**2 * tokens + 4 * tokens * 512 * hidden
    expected = operations / (FLOPS_EFFICIENCY * kind.flops) + LAYER_LAUNCH_S
    # Norms and biases are 13·h of 12·h² numbers.
    assert found.seconds == pytest.approx(expected, rel=2e-4)


def test_decode_of_one_row_takes_as_long_as_reading_its_weights():
    kind = read_catalogue().find("T4")
    found = row(predict(kind), phase="decode", bits=16, kv_bits=16, batch=1)
    hidden = 7168
    size = 2 * 12 * hidden**2 + 640 * 2 * 2 * hidden
    expected = (
        size / (BANDWIDTH_EFFICIENCY * kind.bandwidth_bytes_per_s) + LAYER_LAUNCH_S
    )
    # Hidden states of one token are thousands of bytes out of a billion.
    assert found.seconds == pytest.approx(expected, rel=5e-4)


def test_a_layer_over_two_devices_has_half_the_work_on_each_and_two_all_reduces():
    """OPT-30b in prefill: half of the arithmetic, and two ring all-reduces."""
    kind = read_catalogue().find("A100-40")
    link = NodeInterconnect(widths=(2, 4), bandwidth_bytes_per_s=1e11, latency_s=1e-5)
    measurements = roofline(
        read_architecture(MODELS / "opt-30b"),
        [kind],
        workload=WORKLOAD,
        rows=(8,),
        name="opt-30b",
        interconnects={kind.name: link},
    )
    wanted = {"phase": "prefill", "bits": 16, "kv_bits": 16, "batch": 8}
    alone = row(measurements, **wanted, tensor=1)
    tokens, hidden = 8 * 512, 7168
    for width in (2, 4):
        found = row(measurements, **wanted, tensor=width)
        size = tokens * hidden * 2
        steps = 2 * (width - 1)
        reduced = 2 * steps * (1e-5 + size / width / 1e11)
        shared = (alone.seconds - LAYER_LAUNCH_S) / width
        # Norms and biases of outputs are 9·h of 12·h² numbers and are not shared.
        assert found.seconds == pytest.approx(
            shared + LAYER_LAUNCH_S + reduced, rel=2e-4
        )
        assert found.workspace_bytes < alone.workspace_bytes


@given(
    st.sampled_from(KINDS),
    st.floats(1.0, 10.0),
    st.sampled_from(["flops", "bandwidth_bytes_per_s"]),
)
def test_a_better_figure_is_never_slower(kind, factor, name):
    better = replace(kind, **{name: getattr(kind, name) * factor})
    for slow, fast in zip(predict(kind).layers, predict(better).layers, strict=True):
        assert fast.seconds <= slow.seconds
