"""The reported error is that of the predictions, on rows that were held out of the fit."""

from __future__ import annotations

import pytest

from llmpq_jax.costmodel.accuracy import held_out_accuracy
from llmpq_jax.costmodel.latency import fit_latency
from tests.costmodel.records import layer_time, measurements

FITTED = [
    layer_time("decode", rows, length, 1.0 + rows * length)
    for rows in (1, 4)
    for length in (8, 64)
]


def held_out(rows, length, seconds, **fields):
    return layer_time("decode", rows, length, seconds, held_out=True, **fields)


def test_the_error_is_that_of_the_predictions():
    measured = measurements(
        *FITTED, held_out(2, 16, 40.0, spread=0.1), held_out(3, 32, 50.0, spread=0.3)
    )
    table = fit_latency(measured).layers["cpu", "decode", 8, 1]
    errors = [abs(float(table(2, 16)) / 40 - 1), abs(float(table(3, 32)) / 50 - 1)]
    (accuracy,) = held_out_accuracy(measured)
    assert (accuracy.num_fitted, accuracy.num_held_out) == (4, 2)
    assert accuracy.mean_error == pytest.approx(sum(errors) / 2)
    assert accuracy.largest_error == pytest.approx(max(errors))
    assert accuracy.spread == pytest.approx(0.2)


def test_a_device_that_follows_the_law_is_predicted_without_error():
    (accuracy,) = held_out_accuracy(
        measurements(*FITTED, held_out(3, 24, 1.0 + 3 * 24))
    )
    assert accuracy.mean_error == pytest.approx(0.0, abs=1e-6)


def test_each_kind_phase_and_precision_is_evaluated_on_its_own_rows():
    other = [
        layer_time("prefill", 1, 8, 1.0, bits=4, kind="gpu"),
        layer_time("prefill", 2, 8, 1.0, bits=4, kind="gpu", held_out=True),
    ]
    found = held_out_accuracy(measurements(*FITTED, held_out(2, 8, 1.0), *other))
    assert [(row.kind, row.phase, row.bits) for row in found] == [
        ("cpu", "decode", 8),
        ("gpu", "prefill", 4),
    ]


@pytest.mark.parametrize(
    "rows", [FITTED, [held_out(2, 8, 1.0)], [*FITTED, held_out(4, 8, 1.0)]]
)
def test_nothing_is_evaluated_without_fitted_and_held_out_rows(rows):
    assert held_out_accuracy(measurements(*rows)) == ()
