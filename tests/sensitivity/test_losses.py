"""All variants in one pass, compared with pipelines that serve them one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_jax.runtime import Pipeline
from llmpq_jax.sensitivity.losses import (
    Variant,
    distinct,
    losses_of,
    num_streams,
    one_layer,
    unrounded,
)
from tests.sensitivity.small import small_model, small_text
from tests.support.same_tokens import logit_tolerance
from tests.support.tiny_models import make_strategy

_WIDTHS = st.lists(st.sampled_from([4, 8, 16]), min_size=4, max_size=4).map(tuple)
_VARIANTS = st.builds(
    Variant,
    bits=_WIDTHS,
    head_bits=st.sampled_from([8, 16]),
    kv_bits=st.sampled_from([8, 16]),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("small")
    model = small_model(folder)
    return model, small_text(model, folder), folder


def _served(model, variant: Variant, tokens: np.ndarray) -> np.ndarray:
    """Returns the logits of a pipeline that serves the variant."""
    strategy = make_strategy(
        model.folder,
        [((0,), list(variant.bits))],
        head_bits=variant.head_bits,
        kv_bits=variant.kv_bits,
    )
    precision = replace(strategy.precision, group_size=model.group_size)
    with Pipeline.load(replace(strategy, precision=precision)) as pipeline:
        return np.asarray(pipeline.score(tokens), np.float64)


def _logprobs(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@settings(max_examples=max(3, settings().max_examples // 10))
@given(st.lists(_VARIANTS, min_size=1, max_size=4))
def test_every_variant_loses_what_its_own_pipeline_loses(small, variants):
    model, text, folder = small
    found = losses_of(model, text, variants, folder=folder / "work")
    tokens = text.tokens
    exact_logits = _served(model, unrounded(4), tokens)
    exact = _logprobs(exact_logits)[:, :-1]
    # The error of a mean of log-probabilities is at most twice that of a logit.
    tolerance = 4 * logit_tolerance(model.architecture, exact_logits)
    for variant, losses in zip(variants, found, strict=True):
        logprobs = _logprobs(_served(model, variant, tokens))[:, :-1]
        nll = -np.take_along_axis(logprobs, tokens[:, 1:, None], axis=-1)[..., 0]
        kl = (np.exp(exact) * (exact - logprobs)).sum(axis=-1)
        # A float's last bit may change an integer of an 8-bit cache.
        slack = tolerance if variant.kv_bits == 16 else 20 * tolerance
        np.testing.assert_allclose(losses.nll, nll, atol=slack)
        np.testing.assert_allclose(losses.kl, kl, atol=slack)
    assert not (folder / "work").exists()


def test_the_model_itself_loses_nothing(small):
    model, text, folder = small
    (exact,) = losses_of(model, text, [unrounded(4)], folder=folder / "work")
    assert np.abs(exact.kl).max() < 1e-6
    assert exact.agrees.all()


def test_int8_on_the_wire_changes_little_but_not_nothing(small):
    model, text, folder = small
    wired = Variant(bits=(16,) * 4, wire_bits=8)
    (found,) = losses_of(model, text, [wired], folder=folder / "work")
    assert 0 < found.kl.mean() < 0.01


@given(st.lists(_VARIANTS, min_size=1, max_size=6))
def test_streams_are_the_variants_prefixes(variants):
    prefixes = {
        (layer, variant.prefix(layer))
        for variant in [unrounded(4), *variants]
        for layer in range(1, 5)
    }
    assert num_streams(4, variants) == len(prefixes)


def test_each_low_bit_layer_adds_one_stream_for_every_width():
    variants = [one_layer(4, layer, bits) for layer in range(4) for bits in (8, 4)]
    assert num_streams(4, variants) == sum(1 + 2 * layer for layer in range(1, 5))
    assert len(distinct([*variants, *variants])) == 8


def test_an_interrupted_run_is_resumed_after_its_last_complete_layer(
    small, monkeypatch
):
    model, text, folder = small
    variants = [one_layer(4, 1, 4), Variant(bits=(8,) * 4)]
    expected = losses_of(model, text, variants, folder=folder / "work")
    loaded: list[int] = []
    layer_weights = model.layer_weights

    def interrupted(layer, bits):
        loaded.append(layer)
        # In the first run, at the second width of layer 2.
        if loaded.count(2) == 2:
            raise KeyboardInterrupt
        return layer_weights(layer, bits)

    monkeypatch.setattr(model, "layer_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        losses_of(model, text, variants, folder=folder / "work")
    assert set(loaded) == {0, 1, 2}
    loaded.clear()
    monkeypatch.setattr(
        model,
        "layer_weights",
        lambda layer, bits: (loaded.append(layer), layer_weights(layer, bits))[1],
    )
    streams: list[int] = []
    found = losses_of(
        model, text, variants, folder=folder / "work", on_stream=streams.append
    )
    assert set(loaded) == {2, 3}
    assert sum(streams) == num_streams(4, variants)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.nll, other.nll)


def test_what_other_work_left_is_not_used(small, monkeypatch):
    model, text, folder = small

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(model, "head", interrupted)
        with pytest.raises(KeyboardInterrupt):
            losses_of(model, text, [one_layer(4, 0, 4)], folder=folder / "work")
    other = one_layer(4, 3, 4)
    (found,) = losses_of(model, text, [other], folder=folder / "work")
    (expected,) = losses_of(model, text, [other], folder=folder / "fresh")
    np.testing.assert_array_equal(found.nll, expected.nll)
