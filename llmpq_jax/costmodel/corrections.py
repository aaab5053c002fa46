"""What runs that were folded in say of a table of measurements."""

from __future__ import annotations

from collections import defaultdict

from llmpq_jax.schema.measurements import Measurements, Phase


def correction_factors(measurements: Measurements) -> dict[tuple[str, Phase], float]:
    """Returns by kind and phase how many times as long as foretold its stages took.

    All runs together count, each by its seconds: Σ measured / Σ predicted.
    """
    predicted_s: dict[tuple[str, Phase], float] = defaultdict(float)
    measured_s: dict[tuple[str, Phase], float] = defaultdict(float)
    for row in measurements.observed:
        predicted_s[row.kind, row.phase] += row.predicted_s
        measured_s[row.kind, row.phase] += row.measured_s
    return {key: measured_s[key] / predicted_s[key] for key in predicted_s}
