from __future__ import annotations

import pytest
from hypothesis import given

from llmpq_jax.schema.sensitivity import LayerSensitivity
from tests.schema import records


@given(records.sensitivities)
def test_every_row_is_found(sensitivity):
    first: dict[tuple[int, int], float] = {}
    for row in sensitivity.layers:
        first.setdefault((row.layer, row.bits), row.omega)
    for (layer, bits), omega in first.items():
        assert sensitivity.omega(layer, bits) == omega


@given(records.sensitivities)
def test_an_unknown_layer_counts_zero_at_16_bits_and_is_missing_below(sensitivity):
    unknown = max(row.layer for row in sensitivity.layers) + 1
    assert sensitivity.omega(unknown, 16) == 0
    with pytest.raises(KeyError):
        sensitivity.omega(unknown, 8)


@pytest.mark.parametrize("omega", [-0.1, float("inf"), float("nan")])
def test_a_loss_is_finite_and_not_below_zero(omega):
    complaint = f"omega of layer 3 at 4 bits is {omega}: expected a finite number from"
    with pytest.raises(ValueError, match=complaint):
        LayerSensitivity(layer=3, bits=4, omega=omega)
