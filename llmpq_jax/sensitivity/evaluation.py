"""Quality of a strategy compared with the model at 16 bits, and confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class TextScores:
    """How well one model predicts one text.

    Attributes:
        perplexity: exp of the mean −log p over predicted tokens.
        bits_per_byte: Sum of −log₂ p over predicted tokens, divided by their bytes.
    """

    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEvaluation:
    """A strategy compared with the model at 16 bits on one text.

    Attributes:
        text: Name of the text.
        num_windows: Number of windows of the text.
        num_tokens: Number of predicted tokens.
        exact: Scores of the model at 16 bits.
        found: Scores of the strategy.
        increase_interval: 95 % confidence interval of the increase in perplexity.
        kl_mean: Mean KL divergence from 16 bits, in nats per token.
        kl_interval: 95 % confidence interval of `kl_mean`.
        kl_99: 99th percentile of the KL divergence over tokens.
        agreement: Share of tokens at which both have the same most likely token.
    """

    text: str
    num_windows: int
    num_tokens: int
    exact: TextScores
    found: TextScores
    increase_interval: tuple[float, float]
    kl_mean: float
    kl_interval: tuple[float, float]
    kl_99: float
    agreement: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceEvaluation:
    """Shares of multiple-choice questions answered correctly.

    Attributes:
        name: Name of the questions' file.
        num_questions: Number of questions in the file.
        exact: Share of the model at 16 bits, which takes the most likely choice.
        exact_per_byte: Share of the model at 16 bits if log-likelihoods are divided by
            the choices' bytes.
        found: Share of the strategy.
        found_per_byte: Share of the strategy by log-likelihoods per byte.
    """

    name: str
    num_questions: int
    exact: float
    exact_per_byte: float
    found: float
    found_per_byte: float


def resampled_interval(
    figure: Callable[..., np.ndarray],
    *per_window: Float[np.ndarray, " W"],
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the 95 % percentile-bootstrap interval of a figure of windows' means.

    Windows are drawn with replacement, the same ones for all arrays, so that differences
    between models stay paired. Unlike for `scipy.stats.bootstrap`, one window is enough.

    Args:
        figure: Function from the means of each array, [resamples] each, to the figure.
        per_window: Value of each window, such as its mean loss, [W]; one array per model.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    count = len(per_window[0])
    drawn = generator.integers(0, count, (_RESAMPLES, count))
    figures = figure(*(values[drawn].mean(axis=1) for values in per_window))
    low, high = np.percentile(figures, [2.5, 97.5])
    return float(low), float(high)
