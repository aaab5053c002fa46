"""Confidence intervals by resampling windows of text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_RESAMPLES = 2000


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
