"""Factors by which recorded runs correct the seconds of a measurement table."""

from __future__ import annotations

from collections import defaultdict

from llmpq_jax.schema.measurements import Measurements, Phase


def correction_factors(measurements: Measurements) -> dict[tuple[str, Phase], float]:
    """Returns measured over predicted seconds, by device kind and phase.

    All runs count together, weighted by their seconds: Σ measured / Σ predicted.
    """
    predicted_s: dict[tuple[str, Phase], float] = defaultdict(float)
    measured_s: dict[tuple[str, Phase], float] = defaultdict(float)
    for row in measurements.observed:
        predicted_s[row.kind, row.phase] += row.predicted_s
        measured_s[row.kind, row.phase] += row.measured_s
    return {key: measured_s[key] / predicted_s[key] for key in predicted_s}
