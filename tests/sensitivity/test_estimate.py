"""The whole errand on a small model: every method, every rounding, and stops."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from llmpq_jax.checkpoint.calibrated import RoundedWeights
from llmpq_jax.checkpoint.load import load_layer
from llmpq_jax.costmodel.quality import omega_table
from llmpq_jax.quant import dequantize
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.precision import Rounding
from llmpq_jax.sensitivity import estimate as judge_module
from llmpq_jax.sensitivity.estimate import METHODS, UNIT, SensitivityJob, indicate
from llmpq_jax.sensitivity.losses import losses_of
from llmpq_jax.sensitivity.scale_fit import fit_factor, r_squared, random_assignments
from llmpq_jax.sensitivity.variant import Variant, one_layer
from tests.same_tokens import logit_tolerance
from tests.sensitivity.small import small_model, small_text
from tests.tiny_models import make_strategy


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("small")
    model = small_model(folder)
    return model, small_text(model, folder), folder


def _errand(**choices) -> SensitivityJob:
    return SensitivityJob(num_assignments=4, **choices)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_judges_every_layer_and_fewer_bits_lose_more(judged, method):
    model, text, folder = judged
    steps: list[tuple[int, int]] = []
    found = indicate(
        model,
        text,
        _errand(method=method),
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


def test_measured_is_the_divergence_with_only_that_layer_rounded(judged):
    model, text, folder = judged
    found = indicate(model, text, _errand(method="measured"), folder=folder / "work")
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
def test_what_was_judged_is_what_is_served(judged, rounding, tmp_path):
    base, text, folder = judged
    model = small_model(tmp_path)
    assert model.fingerprint == base.fingerprint
    errand = _errand(rounding=rounding, rounded=tmp_path / "rounded")
    found = indicate(model, text, errand, folder=tmp_path / "work")
    assert (found.rounding, found.rounded) == (rounding, str(tmp_path / "rounded"))
    rounded = RoundedWeights(tmp_path / "rounded", fingerprint=model.fingerprint)
    exact = load_layer(model.reader, model.architecture, 2, bits=16)
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
    told = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    coming = text.tokens[:, 1:, None]
    nll = -np.take_along_axis(told[:, :-1], coming, axis=-1)[..., 0]
    tolerance = 4 * logit_tolerance(model.architecture, logits)
    np.testing.assert_allclose(nll, losses.nll, atol=tolerance)
    nearest = losses_of(base, text, [variant], folder=folder / "work")[0]
    assert not np.allclose(nll, nearest.nll, atol=tolerance)


def test_an_errand_that_was_stopped_while_rounding_ends_as_if_it_had_not(
    judged, tmp_path, monkeypatch
):
    _, text, _ = judged
    errand = _errand(rounding="gptq", rounded=tmp_path / "whole")
    expected = indicate(
        small_model(tmp_path / "a"), text, errand, folder=tmp_path / "w"
    )
    errand = replace(errand, rounded=tmp_path / "stopped")
    judge_part = judge_module._judge_part
    calls: list[object] = []

    def stopping(model, errand, part, bits, moments):
        calls.append((part, bits))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return judge_part(model, errand, part, bits, moments)

    monkeypatch.setattr(judge_module, "_judge_part", stopping)
    with pytest.raises(KeyboardInterrupt):
        indicate(small_model(tmp_path / "b"), text, errand, folder=tmp_path / "work")
    assert not (tmp_path / "stopped" / "rounded.json").exists()
    found = indicate(
        small_model(tmp_path / "c"), text, errand, folder=tmp_path / "work"
    )
    # Head and the last layer were done; the layer at which it stopped is done again.
    assert calls[3:5] == [(2, 8), (2, 8)] or calls[3] == calls[4]
    assert len(calls) == 1 + 2 * 4 + 1 + (calls.count(calls[4]) - 2)
    assert found.layers == expected.layers


def test_random_choices_spread_from_little_to_much():
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
