"""Biases, penalties and allowed tokens, against a loop over single logits."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.stage.logit_adjustments import (
    TokenAdjustment,
    adjusted_logits,
    num_words,
    pack_adjustments,
)

SIZE = 70
# More than the tokens of a row, as a context is longer than a text.
NUM_ADJUSTED = 12
_adjusted_logits = jax.jit(adjusted_logits)

numbers = st.floats(-4, 4, width=32)
adjustment = st.builds(
    TokenAdjustment, bias=numbers, factor=st.floats(0.5, 2, width=32), penalty=numbers
)
rows = st.dictionaries(st.integers(0, SIZE - 1), adjustment, max_size=NUM_ADJUSTED)
masks = st.none() | st.sets(st.integers(0, SIZE - 1), min_size=1)


def _words(allowed: set[int] | None) -> np.ndarray | None:
    if allowed is None:
        return None
    words = np.zeros(num_words(SIZE), np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words


@given(st.lists(st.tuples(rows, masks), min_size=3, max_size=3), st.integers(0, 2**31))
def test_logits_are_changed_one_by_one(
    made: list[tuple[dict[int, TokenAdjustment], set[int] | None]], seed: int
) -> None:
    logits = np.random.default_rng(seed).normal(0, 3, (3, SIZE)).astype(np.float32)
    expected = logits.copy()
    for row, (adjusted, allowed) in enumerate(made):
        for token, change in adjusted.items():
            value = expected[row, token] + np.float32(change.bias)
            factor = np.float32(change.factor)
            value = value / factor if value > 0 else value * factor
            expected[row, token] = value - np.float32(change.penalty)
        for token in range(SIZE):
            if allowed is not None and token not in allowed:
                expected[row, token] = -np.inf
    packed = pack_adjustments(
        [adjusted for adjusted, _ in made],
        [_words(allowed) for _, allowed in made],
        vocabulary_size=SIZE,
        num_adjusted=NUM_ADJUSTED,
    )
    found = np.asarray(_adjusted_logits(logits, packed))
    assert np.array_equal(np.isneginf(found), np.isneginf(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_without_adjusted_tokens_only_masks_are_packed() -> None:
    packed = pack_adjustments(
        [{}, {}], [None, _words({3})], vocabulary_size=SIZE, num_adjusted=0
    )
    assert packed.shape == (2, num_words(SIZE))
    found = np.asarray(_adjusted_logits(np.ones((2, SIZE), np.float32), packed))
    assert (found[0] == 1).all()
    assert np.flatnonzero(np.isfinite(found[1])).tolist() == [3]
