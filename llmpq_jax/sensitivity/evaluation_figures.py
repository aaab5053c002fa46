"""How good a strategy is beside the model at 16 bits, as figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One model on one text.

    Attributes:
        perplexity: exp of the mean −log p of the tokens foretold.
        bits_per_byte: The sum of −log₂ p over the bytes these tokens say.
    """

    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A strategy beside the model at 16 bits.

    Attributes:
        text: Name of the text.
        num_windows: Of it.
        num_tokens: Foretold.
        exact: At 16 bits.
        found: The strategy.
        increase_interval: 95 % of the perplexity's increase.
        kl_mean: KL divergence from 16 bits, nats per token.
        kl_interval: 95 % of its mean.
        kl_99: Its 99th percentile over tokens.
        agreement: Share of tokens where both hold the same one for the likeliest.
    """

    text: str
    num_windows: int
    num_tokens: int
    exact: Figures
    found: Figures
    increase_interval: tuple[float, float]
    kl_mean: float
    kl_interval: tuple[float, float]
    kl_99: float
    agreement: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """Shares of multiple-choice questions answered rightly.

    Attributes:
        name: Of the questions' file.
        num_questions: In it.
        exact: By the model at 16 bits, the likeliest choice taken.
        exact_per_byte: Likewise, log-likelihoods divided by the choices' bytes.
        found: By the strategy.
        found_per_byte: Likewise.
    """

    name: str
    num_questions: int
    exact: float
    exact_per_byte: float
    found: float
    found_per_byte: float
