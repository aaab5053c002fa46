"""Complete jobs on a small model: every method, every rounding, and interruptions."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from llmpq_jax.checkpoint.calibrated import CalibratedWeights
from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.costmodel.quality import omega_table
from llmpq_jax.quant import dequantize
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.precision import Rounding
from llmpq_jax.sensitivity import second_order
from llmpq_jax.sensitivity.estimate import (
    UNIT,
    compute_sensitivity,
    fit_factor,
    r_squared,
    random_assignments,
)
from llmpq_jax.sensitivity.job import METHODS, SensitivityJob
from llmpq_jax.sensitivity.losses import Variant, losses_of, one_layer
from tests.sensitivity.small import small_model, small_text
from tests.support.same_tokens import logit_tolerance
from tests.support.tiny_models import make_strategy


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("small")
    model = small_model(folder)
    return model, small_text(model, folder), folder


def _job(**options) -> SensitivityJob:
    return SensitivityJob(num_assignments=4, **options)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_estimates_every_layer_and_fewer_bits_lose_more(small, method):
    model, text, folder = small
    steps: list[tuple[int, int]] = []
    found = compute_sensitivity(
        model,
        text,
        _job(method=method),
        folder=folder / "work",
        on_step=lambda count, total: steps.append((count, total)),
    )
    table = omega_table(found, num_layers=4, bits=(4, 8, 16))
    assert (table[:, 0] > table[:, 1]).all()
    assert (table[:, 1] > 0).all()
    assert (found.method, found.unit, found.rounding) == (method, UNIT, "nearest")
    assert found.calibration is not None
    assert (found.calibration.digest, found.calibration.num_assignments) == (
        text.digest,
        4,
    )
    assert found.head_8 > 0
    assert found.kv_8 > 0
    assert found.wire_8 > 0
    assert sum(count for count, _ in steps) == steps[-1][1]


def test_measured_is_the_divergence_with_only_that_layer_rounded(small):
    model, text, folder = small
    found = compute_sensitivity(
        model, text, _job(method="measured"), folder=folder / "work"
    )
    assert found.calibration is not None
    variants = [one_layer(4, layer, bits) for layer in range(4) for bits in (8, 4)]
    losses = losses_of(model, text, variants, folder=folder / "work")
    for variant, each in zip(variants, losses, strict=True):
        layer = next(i for i, bits in enumerate(variant.bits) if bits != 16)
        omega = found.omega(layer, variant.bits[layer])
        expected = found.calibration.factor * each.kl.mean(dtype=np.float64)
        assert omega == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "rounding",
    [
        "gptq",
        *(
            pytest.param(each, marks=pytest.mark.full)
            for each in get_args(Rounding)
            if each not in {"nearest", "gptq"}
        ),
    ],
)
def test_the_rounded_weights_estimated_are_those_served(small, rounding, tmp_path):
    base, text, folder = small
    model = small_model(tmp_path)
    assert model.fingerprint == base.fingerprint
    job = _job(rounding=rounding, rounded=tmp_path / "rounded")
    found = compute_sensitivity(model, text, job, folder=tmp_path / "work")
    assert (found.rounding, found.rounded) == (rounding, str(tmp_path / "rounded"))
    rounded = CalibratedWeights(tmp_path / "rounded", fingerprint=model.fingerprint)
    exact = load_weights(model.store.layer(2, bits=16))
    for name, weight in rounded.read(2, 4).items():
        error = np.asarray(dequantize(weight)) - np.asarray(exact[name], np.float32)
        assert np.abs(error).max() < 8 * np.asarray(weight.scale).max()
    plan = make_strategy(model.folder, [((0,), [4, 8]), ((1,), [16, 4])], head_bits=8)
    plan = replace(
        plan,
        model=replace(plan.model, rounded=str(tmp_path / "rounded")),
        precision=replace(plan.precision, rounding=rounding, group_size=32),
    )
    with Pipeline.load(plan) as pipeline:
        logits = pipeline.score(text.tokens)
    variant = Variant(bits=plan.bits, head_bits=8)
    (losses,) = losses_of(model, text, [variant], folder=tmp_path / "work")
    logprobs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    next_tokens = text.tokens[:, 1:, None]
    nll = -np.take_along_axis(logprobs[:, :-1], next_tokens, axis=-1)[..., 0]
    tolerance = 4 * logit_tolerance(model.architecture, logits)
    np.testing.assert_allclose(nll, losses.nll, atol=tolerance)
    nearest = losses_of(base, text, [variant], folder=folder / "work")[0]
    assert not np.allclose(nll, nearest.nll, atol=tolerance)


def test_a_job_interrupted_while_rounding_ends_as_if_it_had_not_been(
    small, tmp_path, monkeypatch
):
    _, text, _ = small
    job = _job(rounding="gptq", rounded=tmp_path / "whole")
    expected = compute_sensitivity(
        small_model(tmp_path / "a"), text, job, folder=tmp_path / "w"
    )
    job = replace(job, rounded=tmp_path / "stopped")
    estimate_part = second_order.estimate_part
    calls: list[object] = []

    def stopping(model, job, part, bits, moments):
        calls.append((part, bits))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return estimate_part(model, job, part, bits, moments)

    monkeypatch.setattr(second_order, "estimate_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        compute_sensitivity(
            small_model(tmp_path / "b"), text, job, folder=tmp_path / "work"
        )
    assert not (tmp_path / "stopped" / "rounded.json").exists()
    found = compute_sensitivity(
        small_model(tmp_path / "c"), text, job, folder=tmp_path / "work"
    )
    # Head and last layer are kept; the layer during which it was interrupted is repeated.
    assert calls[3:5] == [(2, 8), (2, 8)] or calls[3] == calls[4]
    assert len(calls) == 1 + 2 * 4 + 1 + (calls.count(calls[4]) - 2)
    assert found.layers == expected.layers


def test_random_assignments_spread_from_little_int4_to_much():
    drawn = random_assignments(12, 200, np.random.default_rng(0))
    shares = np.array([sum(bits == 4 for bits in each.bits) / 12 for each in drawn])
    assert shares.min() < 0.1
    assert shares.max() > 0.9
    assert {bits for each in drawn for bits in each.bits} == {4, 8, 16}


def test_a_factor_is_fitted_through_the_origin():
    generator = np.random.default_rng(0)
    omegas = generator.uniform(0, 1, 50)
    noise = generator.normal(0, 0.01, 50)
    factor, r2 = fit_factor(omegas.tolist(), (0.7 * omegas + noise).tolist())
    assert factor == pytest.approx(0.7, abs=0.02)
    assert 0.98 < r2 < 1
    assert fit_factor([0.0, 0.0], [0.1, 0.2])[0] == 1.0
    assert fit_factor([1.0, 2.0], [-1.0, -2.0])[0] == 0.1
    assert r_squared(np.ones(3), np.ones(3)) == 0.0
