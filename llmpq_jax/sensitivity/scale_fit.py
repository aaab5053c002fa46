"""Fits Σω to the measured increase in log-perplexity of random bit assignments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpq_jax.schema.precision import Bits
from llmpq_jax.sensitivity.losses import Losses
from llmpq_jax.sensitivity.variant import Variant

# A smaller factor would say that rounding costs nothing, which is noise of a short text.
_MIN_FACTOR = 0.1


def random_assignments(
    num_layers: int, count: int, generator: np.random.Generator
) -> list[Variant]:
    """Draws assignments of bits to layers.

    The share of int4 is drawn for each assignment; other layers have int8 or 16 bits with
    equal probability. Σω then spreads from almost 0 to that of uniform int4.
    """
    drawn = []
    for share in generator.uniform(0.0, 1.0, count):
        chances = (share, (1 - share) / 2, (1 - share) / 2)
        widths = generator.choice(np.array([4, 8, 16]), num_layers, p=chances)
        bits: tuple[Bits, ...] = tuple(int(width) for width in widths)  # pyright: ignore[reportAssignmentType]
        drawn.append(Variant(bits=bits))
    return drawn


def increase(losses: Losses, exact: Losses) -> float:
    """Returns the measured increase in log-perplexity, in nats per token."""
    return float(np.mean(losses.nll - exact.nll, dtype=np.float64))


def fit_factor(
    omegas: Sequence[float], increases: Sequence[float]
) -> tuple[float, float]:
    """Fits increase ≈ factor · Σω by least squares through the origin.

    Returns:
        The factor, at least 0.1; and R², the share of the increases' variance that the
        scaled sums explain.
    """
    omega, found = np.asarray(omegas), np.asarray(increases)
    squares = float(omega @ omega)
    factor = max(_MIN_FACTOR, float(omega @ found) / squares) if squares else 1.0
    return factor, r_squared(factor * omega, found)


def r_squared(predicted: np.ndarray, found: np.ndarray) -> float:
    """Returns 1 − Σ(found − predicted)² / Σ(found − mean)²; 0 if all found are equal."""
    spread = float(np.sum((found - found.mean()) ** 2))
    if spread == 0:
        return 0.0
    return 1 - float(np.sum((found - predicted) ** 2)) / spread
