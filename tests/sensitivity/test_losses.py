"""All variants in one pass, against pipelines that serve them one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_jax.runtime import Pipeline
from llmpq_jax.sensitivity import losses as losses_module
from llmpq_jax.sensitivity.losses import losses_of, num_streams
from llmpq_jax.sensitivity.variant import Variant, distinct, one_layer, whole
from tests.same_tokens import logit_tolerance
from tests.sensitivity.small import small_model, small_text
from tests.tiny_models import make_strategy

_WIDTHS = st.lists(st.sampled_from([4, 8, 16]), min_size=4, max_size=4).map(tuple)
_VARIANTS = st.builds(
    Variant,
    bits=_WIDTHS,
    head_bits=st.sampled_from([8, 16]),
    kv_bits=st.sampled_from([8, 16]),
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("small")
    model = small_model(folder)
    return model, small_text(model, folder), folder


def _served(model, variant: Variant, tokens: np.ndarray) -> np.ndarray:
    """Returns the logits of the pipeline that a variant would be planned as."""
    strategy = make_strategy(
        model.folder,
        [((0,), list(variant.bits))],
        head_bits=variant.head_bits,
        kv_bits=variant.kv_bits,
    )
    precision = replace(strategy.precision, group_size=model.group_size)
    with Pipeline.load(replace(strategy, precision=precision)) as pipeline:
        return np.asarray(pipeline.score(tokens), np.float64)


def _told(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@settings(max_examples=max(3, settings().max_examples // 10))
@given(st.lists(_VARIANTS, min_size=1, max_size=4))
def test_every_variant_loses_what_its_own_pipeline_loses(judged, variants):
    model, text, folder = judged
    found = losses_of(model, text, variants, folder=folder / "work")
    tokens = text.tokens
    exact_logits = _served(model, whole(4), tokens)
    exact = _told(exact_logits)[:, :-1]
    # A mean of log-probabilities errs by twice what a logit errs by, at most.
    tolerance = 4 * logit_tolerance(model.architecture, exact_logits)
    for variant, losses in zip(variants, found, strict=True):
        told = _told(_served(model, variant, tokens))[:, :-1]
        nll = -np.take_along_axis(told, tokens[:, 1:, None], axis=-1)[..., 0]
        kl = (np.exp(exact) * (exact - told)).sum(axis=-1)
        # A cache of 8 bits rounds: a float's last bit may tip an integer.
        slack = tolerance if variant.kv_bits == 16 else 20 * tolerance
        np.testing.assert_allclose(losses.nll, nll, atol=slack)
        np.testing.assert_allclose(losses.kl, kl, atol=slack)
    assert not (folder / "work").exists()


def test_the_model_itself_loses_nothing(judged):
    model, text, folder = judged
    (exact,) = losses_of(model, text, [whole(4)], folder=folder / "work")
    assert np.abs(exact.kl).max() < 1e-6
    assert exact.agrees.all()


def test_int8_on_the_wire_changes_little_but_something(judged):
    model, text, folder = judged
    wired = Variant(bits=(16,) * 4, wire_bits=8)
    (found,) = losses_of(model, text, [wired], folder=folder / "work")
    assert 0 < found.kl.mean() < 0.01


@given(st.lists(_VARIANTS, min_size=1, max_size=6))
def test_streams_are_the_variants_prefixes(variants):
    prefixes = {
        (layer, variant.before(layer))
        for variant in [whole(4), *variants]
        for layer in range(1, 5)
    }
    assert num_streams(4, variants) == len(prefixes)


def test_one_layer_each_is_one_stream_more_at_every_layer_and_width():
    variants = [one_layer(4, layer, bits) for layer in range(4) for bits in (8, 4)]
    assert num_streams(4, variants) == sum(1 + 2 * layer for layer in range(1, 5))
    assert len(distinct([*variants, *variants])) == 8


def test_work_that_was_stopped_goes_on_after_its_last_whole_layer(judged, monkeypatch):
    model, text, folder = judged
    variants = [one_layer(4, 1, 4), Variant(bits=(8,) * 4)]
    expected = losses_of(model, text, variants, folder=folder / "work")
    passed: list[int] = []
    pass_layer = losses_module._pass_layer

    def stopping(model, work, every, layer, on_stream):
        if layer == 2 and len(passed) == 2:
            passed.append(-1)
            raise KeyboardInterrupt
        passed.append(layer)
        pass_layer(model, work, every, layer, on_stream)

    monkeypatch.setattr(losses_module, "_pass_layer", stopping)
    with pytest.raises(KeyboardInterrupt):
        losses_of(model, text, variants, folder=folder / "work")
    told: list[int] = []
    found = losses_of(
        model, text, variants, folder=folder / "work", on_stream=told.append
    )
    assert passed == [0, 1, -1, 2, 3]
    assert sum(told) == num_streams(4, variants)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.nll, other.nll)


def test_what_other_work_left_is_not_taken_for_ones_own(judged, monkeypatch):
    model, text, folder = judged
    monkeypatch.setattr(
        losses_module,
        "_judge",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()),
    )
    with pytest.raises(KeyboardInterrupt):
        losses_of(model, text, [one_layer(4, 0, 4)], folder=folder / "work")
    monkeypatch.undo()
    other = one_layer(4, 3, 4)
    (found,) = losses_of(model, text, [other], folder=folder / "work")
    (expected,) = losses_of(model, text, [other], folder=folder / "fresh")
    np.testing.assert_array_equal(found.nll, expected.nll)
