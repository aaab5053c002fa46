"""Moments from backpropagation, compared with gradients taken token by token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmpq_jax.arch.tensors import layer_tensors
from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.model import DecoderLayer, Head, fresh_context
from llmpq_jax.quant import dequantize
from llmpq_jax.quant.rounding import round_weight
from llmpq_jax.sensitivity.losses import losses_of, one_layer
from llmpq_jax.sensitivity.moments import layer_moments, moments_of
from llmpq_jax.sensitivity.second_order import curvature_loss
from tests.sensitivity.small import small_model, small_text

MATRICES = (
    *("attention.query", "attention.key", "attention.value", "attention.output"),
    *("mlp.gate", "mlp.up", "mlp.down"),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("small")
    model = small_model(folder)
    return model, small_text(model, folder), folder


def test_for_one_token_the_weight_s_gradient_is_the_outer_product(small):
    """With one token ∂L/∂W = x·gᵀ, so its squares are products of the moments."""
    model, _, _ = small
    generator = np.random.default_rng(0)
    width = model.architecture.hidden_size
    hidden = generator.standard_normal((1, 1, width), np.float32)
    gradient = generator.standard_normal((1, 1, width), np.float32)
    _, found = layer_moments(model, 1, hidden, gradient)
    weights = load_weights(model.store.layer(1, bits=16))
    wide = {name: jnp.asarray(each, jnp.float32) for name, each in weights.items()}

    def loss(weights):
        context = fresh_context(model.architecture, 1, 1)
        layer = DecoderLayer(model.architecture, 1, weights)
        return jnp.sum(layer(jnp.asarray(hidden), None, context)[0] * gradient)

    gradients = jax.grad(loss)(wide)
    assert set(found) == {f"{name}.weight" for name in MATRICES}
    for name, moments in found.items():
        products = np.outer(np.diagonal(moments.inputs), moments.outputs)
        squares = np.asarray(gradients[name]) ** 2
        np.testing.assert_allclose(
            products, squares, rtol=2e-3, atol=1e-6 * squares.max()
        )


def test_moments_of_windows_are_means_of_each_window_s(small):
    model, text, _ = small
    generator = np.random.default_rng(1)
    hidden = model.embed(text.tokens)
    gradient = generator.standard_normal(hidden.shape, np.float32)
    back, together = layer_moments(model, 0, hidden, gradient)
    alone = [
        layer_moments(model, 0, hidden[i : i + 1], gradient[i : i + 1])
        for i in range(len(hidden))
    ]
    apart = np.concatenate([each for each, _ in alone])
    np.testing.assert_allclose(back, apart, rtol=0, atol=1e-5 * np.abs(apart).max())
    for name, moments in together.items():
        for axis in ("inputs", "outputs"):
            mean = np.mean([getattr(each[name], axis) for _, each in alone], axis=0)
            found = getattr(moments, axis)
            np.testing.assert_allclose(
                found, mean, rtol=1e-4, atol=1e-5 * np.abs(mean).max()
            )


def test_every_matrix_has_moments_and_a_seed_draws_the_same_tokens(small):
    model, text, folder = small
    seen = dict(moments_of(model, text, folder=folder / "work", seed=3))
    assert sorted(seen) == [0, 1, 2, 3, 4]
    tensors = [
        each.name for each in layer_tensors(model.architecture) if each.is_matrix
    ]
    assert list(seen[0]) == tensors
    assert list(seen[4]) == ["vocabulary.weight"]
    assert not (folder / "work").exists()
    again = dict(moments_of(model, text, folder=folder / "work", seed=3))
    other = dict(moments_of(model, text, folder=folder / "work", seed=4))
    name = "mlp.down.weight"
    np.testing.assert_array_equal(seen[0][name].outputs, again[0][name].outputs)
    assert not np.array_equal(seen[0][name].outputs, other[0][name].outputs)


def test_an_interrupted_pass_is_resumed_with_the_layer_not_yet_processed(small):
    model, text, folder = small
    expected = dict(moments_of(model, text, folder=folder / "work"))
    found = {}
    steps = moments_of(model, text, folder=folder / "work")
    for layer, moments in steps:
        if layer == 2:
            steps.close()
            break
        found[layer] = moments
    passed: list[None] = []
    rest = moments_of(
        model, text, folder=folder / "work", on_layer=lambda: passed.append(None)
    )
    later = dict(rest)
    assert sorted(later) == [0, 1, 2]
    assert len(passed) == 2 * 4
    for layer, moments in (found | later).items():
        for name, each in moments.items():
            np.testing.assert_array_equal(each.outputs, expected[layer][name].outputs)


def test_the_second_order_predicts_what_rounding_a_layer_costs(small):
    """Within a factor of two where six short windows stand for the distribution."""
    model, text, folder = small
    variants = [one_layer(4, layer, 4) for layer in range(4)]
    measured = [
        each.kl.mean()
        for each in losses_of(model, text, variants, folder=folder / "kl")
    ]
    predicted = np.zeros(4)
    for layer, moments in moments_of(model, text, folder=folder / "work"):
        if layer == 4:
            continue
        for each in moments.values():
            weight = each.weight.astype(jnp.float32)
            served = dequantize(round_weight(weight, bits=4, group_size=32))
            predicted[layer] += curvature_loss(each, served - weight)
    assert (predicted < 2 * np.array(measured)).all()
    assert (predicted > np.array(measured) / 2).all()


def test_gradients_reach_the_first_layer_as_through_one_plain_chain(small):
    """The gradient reaches layer 0 through all other layers."""
    model, text, folder = small
    found = dict(moments_of(model, text, folder=folder / "work", seed=5))[0]
    name = "attention.query.weight"
    layers = [
        {
            name: jnp.asarray(each, jnp.float32)
            for name, each in load_weights(model.store.layer(layer, bits=16)).items()
        }
        for layer in range(4)
    ]
    head = load_weights(model.store.head(bits=16))
    hidden = jnp.asarray(model.embed(text.tokens))
    context = fresh_context(model.architecture, *text.tokens.shape)

    def logits(bump):
        state = hidden
        for layer, weights in enumerate(layers):
            if layer == 0:
                weights = {**weights, name: weights[name] + bump}
            module = DecoderLayer(model.architecture, layer, weights)
            state = module(state, None, context)[0]
        return Head(model.architecture, head)(state)

    key = jax.random.fold_in(jax.random.key(5), 0)
    drawn = jax.random.categorical(key, logits(0.0), axis=-1)

    def loss(bump):
        logprobs = jax.nn.log_softmax(logits(bump), axis=-1)
        return -jnp.take_along_axis(logprobs, drawn[..., None], axis=-1).sum()

    # A feature's weights all moved by ε along the inputs' direction x̄ change the loss
    # by ε·Σ g·(x·x̄): its square summed over features is what the moments bound.
    gradient = np.asarray(jax.grad(loss)(jnp.zeros_like(layers[0][name])))
    num_tokens = text.tokens.size
    # Cauchy–Schwarz: (Σ_t x_ti·g_tf)² ≤ Σ_t x_ti² · Σ_t g_tf², and no less than it / T.
    limit = (
        np.outer(np.diagonal(found[name].inputs), found[name].outputs) * num_tokens**2
    )
    assert (gradient**2 <= limit * (1 + 1e-3)).all()
    assert (gradient**2).sum() > limit.sum() / num_tokens / 4
