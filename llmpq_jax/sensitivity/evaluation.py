"""Quality of a strategy compared with the model at 16 bits."""

from __future__ import annotations

from dataclasses import dataclass


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
