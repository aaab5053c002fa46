"""Sampling: which tokens may be drawn, how often, and what a draw depends on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.stage.sampling import (
    choose_tokens,
    perturbed_logits,
    sampling_rows,
    unpack_logprobs,
    with_logprobs,
)

_SIZE = 12
# Jitted, so that each shape is compiled once.
_choose_tokens = jax.jit(choose_tokens)
_perturbed_logits = jax.jit(perturbed_logits)
_with_logprobs = jax.jit(with_logprobs)


def _logits(seed: int, num_rows: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (2 * generator.standard_normal((num_rows, _SIZE))).astype(np.float32)


def _allowed(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float
) -> set[int]:
    """The slow, obvious filter: sort, cut at k, cut where the sum reaches p."""
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    order = order[:top_k] if top_k else order
    weights = np.exp(np.asarray([logits[t] for t in order], np.float64) / temperature)
    weights /= weights.sum()
    kept, total = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        kept.append(token)
        total += weight
        if total >= top_p:
            break
    return set(kept)


@given(
    st.integers(0, 2**31),
    st.floats(0.2, 3.0),
    st.integers(0, _SIZE + 2),
    st.floats(0.05, 0.99),
)
def test_only_tokens_inside_the_cuts_can_be_drawn(
    seed: int, temperature: float, top_k: int, top_p: float
) -> None:
    logits = _logits(seed, 1)
    rows = sampling_rows([temperature], [top_k], [top_p], [seed])
    perturbed = _perturbed_logits(
        jnp.asarray(logits), _on_device(rows), jnp.asarray([3])
    )
    finite = {int(token) for token in np.flatnonzero(np.isfinite(perturbed[0]))}
    assert finite == _allowed(logits[0], temperature, top_k, top_p)


def test_draws_follow_the_softmax() -> None:
    num_draws = 4000
    logits = np.tile(_logits(5, 1), (num_draws, 1))
    rows = sampling_rows(
        [0.7] * num_draws, [0] * num_draws, [1.0] * num_draws, list(range(num_draws))
    )
    tokens = _choose_tokens(
        jnp.asarray(logits), _on_device(rows), jnp.zeros(num_draws, jnp.int32)
    )
    counts = np.bincount(np.asarray(tokens), minlength=_SIZE)
    expected = np.asarray(jax.nn.softmax(logits[0] / 0.7)) * num_draws
    # Five standard deviations of a binomial count.
    bound = 5 * np.sqrt(expected) + 5
    assert (np.abs(counts - expected) <= bound).all()


@given(st.integers(-(2**63), 2**63 - 6), st.permutations(range(5)))
def test_a_row_draws_the_same_token_in_every_batch(seed: int, order: list[int]) -> None:
    logits = _logits(seed % 2**32, 5)
    settings: tuple[list, ...] = (
        [0.9, 0.0, 1.5, 0.7, 1.0],
        [0, 0, 4, 0, 2],
        [1.0, 1.0, 1.0, 0.8, 0.5],
    )
    seeds = [seed + index for index in range(5)]
    position = np.arange(5, dtype=np.int32)

    def draw(rows: list[int]) -> np.ndarray:
        temperature, top_k, top_p = (
            [values[row] for row in rows] for values in settings
        )
        packed = sampling_rows(temperature, top_k, top_p, [seeds[row] for row in rows])
        return np.asarray(
            _choose_tokens(
                jnp.asarray(logits[rows]),
                _on_device(packed),
                jnp.asarray(position[rows]),
            )
        )

    together = draw(list(range(5)))
    np.testing.assert_array_equal(draw(order), together[order])
    np.testing.assert_array_equal(draw([2]), together[[2]])


def test_temperature_zero_takes_the_likeliest_next_to_rows_that_draw() -> None:
    logits = _logits(1, 2)
    rows = sampling_rows([0.0, 1.0], [0, 0], [1.0, 1.0], [1, 2])
    tokens = _choose_tokens(jnp.asarray(logits), _on_device(rows), jnp.asarray([0, 0]))
    assert int(tokens[0]) == int(logits[0].argmax())


def test_seed_and_position_both_change_the_draw() -> None:
    logits = np.zeros((1, 1000), np.float32)

    def token(seed: int, position: int) -> int:
        rows = _on_device(sampling_rows([1.0], [0], [1.0], [seed]))
        return int(
            _choose_tokens(jnp.asarray(logits), rows, jnp.asarray([position]))[0]
        )

    drawn = {token(1, 0), token(1, 1), token(2, 0), token(2, 1)}
    assert len(drawn) > 1
    assert token(1, 1) == token(1, 1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31 - 1))
def test_a_seed_of_32_bits_draws_as_jax_does_with_it(seed: int, position: int) -> None:
    key = jax.random.fold_in(jax.random.key(np.uint32(seed)), position)
    noise = jax.random.gumbel(key, (_SIZE,), jnp.float32)
    rows = _on_device(sampling_rows([1.0], [0], [1.0], [seed]))
    zeros = jnp.zeros((1, _SIZE), jnp.float32)
    drawn = _perturbed_logits(zeros, rows, jnp.asarray([position], jnp.int32))
    np.testing.assert_array_equal(np.asarray(drawn)[0], np.asarray(noise))


def test_all_64_bits_of_a_seed_change_the_draw() -> None:
    seeds = [0, 2**32, 2**62, -1, 2**32 - 1, -(2**63)]
    count = len(seeds)
    rows = _on_device(sampling_rows([1.0] * count, [0] * count, [1.0] * count, seeds))
    zeros = jnp.zeros((count, _SIZE), jnp.float32)
    drawn = np.asarray(_perturbed_logits(zeros, rows, jnp.zeros(count, jnp.int32)))
    assert len(np.unique(drawn, axis=0)) == count


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        *((10.0**-exponent, 0, 1.0) for exponent in (6, 20, 30, 37, 38, 44, 50, 300)),
        (1.0, 0, 0),
        (1.0, 0, 1e-50),
        (1e-37, 3, 1e-3),
        (1.0, 1, 1.0),
        (3e38, 1, 1.0),
    ],
)
def test_numbers_near_zero_leave_the_likeliest_token(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = _logits(3, 4) * np.float32(20)
    rows = sampling_rows([temperature] * 4, [top_k] * 4, [top_p] * 4, [1, 2, 3, 4])
    tokens = _choose_tokens(
        jnp.asarray(logits), _on_device(rows), jnp.zeros(4, jnp.int32)
    )
    np.testing.assert_array_equal(tokens, logits.argmax(axis=-1))


def test_more_than_all_tokens_is_all_tokens() -> None:
    logits = jnp.asarray(_logits(3, 1))
    position = jnp.zeros(1, jnp.int32)
    all_of_them, more, hot = (
        _perturbed_logits(
            logits, _on_device(sampling_rows([heat], [top_k], [1.0], [1])), position
        )
        for heat, top_k in ((1.0, 0), (1.0, 2**31 - 1), (3.4e38, 0))
    )
    np.testing.assert_array_equal(more, all_of_them)
    assert np.isfinite(hot).all()


def _on_device(rows):
    return jax.tree.map(jnp.asarray, rows)


@given(seed=st.integers(0, 2**31), token=st.integers(0, _SIZE - 1))
def test_log_probabilities_are_those_of_float64_and_in_order(seed, token):
    logits = _logits(seed, 3)
    tokens = np.asarray([token, 0, _SIZE - 1], np.int32)
    unpacked = unpack_logprobs(np.asarray(_with_logprobs(logits, tokens)))
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum(axis=-1, keepdims=True))
    np.testing.assert_array_equal(unpacked.token_B, tokens)
    # Logits are below 16: a float32 sum of twelve terms is off by a few units of 2^-20.
    np.testing.assert_allclose(unpacked.logprob_B, exact[range(3), tokens], atol=1e-5)
    assert unpacked.top_token_BK.shape == (3, _SIZE)
    order = np.argsort(-logits, axis=-1, kind="stable")
    np.testing.assert_array_equal(unpacked.top_token_BK, order)
    sorted_exact = np.take_along_axis(exact, order, axis=-1)
    np.testing.assert_allclose(unpacked.top_logprob_BK, sorted_exact, atol=1e-5)
