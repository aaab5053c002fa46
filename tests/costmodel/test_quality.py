"""Σω: the table, its order, the budget."""

from __future__ import annotations

import pytest

from llmpq_jax.costmodel.quality import is_within, omega_table, total_omega
from llmpq_jax.errors import SpecError
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity


def sensitivity(*rows):
    return Sensitivity(
        model="made-up",
        fingerprint="made-up",
        method="made-up",
        unit="nothing",
        group_size=128,
        head_8=0.5,
        kv_8=0.25,
        layers=tuple(
            LayerSensitivity(layer=layer, bits=bits, omega=omega)
            for layer, bits, omega in rows
        ),
    )


TWO_LAYERS = sensitivity((0, 8, 1.0), (0, 4, 2.0), (1, 8, 3.0), (1, 4, 3.0))


def test_the_table_has_a_row_per_layer_and_zeros_at_16_bits():
    table = omega_table(TWO_LAYERS, num_layers=2, bits=(16, 4, 8))
    assert table.tolist() == [[0.0, 2.0, 1.0], [0.0, 3.0, 3.0]]


def test_more_bits_that_lose_more_are_refused():
    noise = sensitivity((0, 8, 1.0), (0, 4, 0.5))
    with pytest.raises(SpecError, match=r"layer 0 rises from 0\.5 at 4 bits to 1 at 8"):
        omega_table(noise, num_layers=1, bits=(8, 4))


def test_16_bits_that_lose_more_than_8_are_refused():
    noise = sensitivity((0, 16, 2.0), (0, 8, 1.0))
    with pytest.raises(SpecError, match="layer 0 rises from 1 at 8 bits to 2 at 16"):
        omega_table(noise, num_layers=1, bits=(16, 8))


def test_a_layer_without_its_row_is_refused():
    with pytest.raises(SpecError, match="no omega of layer 2 at 8 bits"):
        omega_table(TWO_LAYERS, num_layers=3, bits=(8,))


def test_the_sum_counts_layers_and_head():
    assert total_omega(TWO_LAYERS, (8, 16)) == 1.0
    assert total_omega(TWO_LAYERS, (4, 8), head_bits=8) == 5.5
    assert total_omega(TWO_LAYERS, (4, 8), head_bits=8, kv_bits=8) == 5.75


def test_a_budget_is_kept_to_the_rounding_of_a_sum():
    assert is_within(0.1 + 0.2, 0.3)
    assert not is_within(0.301, 0.3)
    assert is_within(1e9, None)
    assert is_within(0.0, 0.0)
    assert not is_within(1e-30, 0.0)
