"""Fits Σω to the increase in log-perplexity that random choices of bits really cause."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmpq_jax.schema.precision import Bits
from llmpq_jax.sensitivity.losses import Losses
from llmpq_jax.sensitivity.variant import Variant

# A smaller factor would say that rounding costs nothing: noise of too short a text.
_MIN_FACTOR = 0.1


def random_assignments(
    num_layers: int, count: int, generator: np.random.Generator
) -> list[Variant]:
    """Draws bits for every layer: a share of int4 for each choice, then layer by layer.

    What is not int4 is int8 or 16 bits, as likely as not, so that Σω spreads from
    almost nothing to that of uniform int4.
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
        The factor, at least a tenth; and R², the share of the increases' variance that
        is explained then.
    """
    omega, found = np.asarray(omegas), np.asarray(increases)
    squares = float(omega @ omega)
    factor = max(_MIN_FACTOR, float(omega @ found) / squares) if squares else 1.0
    return factor, r_squared(factor * omega, found)


def r_squared(foretold: np.ndarray, found: np.ndarray) -> float:
    """Returns 1 − Σ(found − foretold)² / Σ(found − mean)²; 0 where nothing varies."""
    spread = float(np.sum((found - found.mean()) ** 2))
    if spread == 0:
        return 0.0
    return 1 - float(np.sum((found - foretold) ** 2)) / spread
