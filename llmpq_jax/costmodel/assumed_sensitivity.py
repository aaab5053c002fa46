"""A sensitivity for models without weights: all layers alike, weights normal.

What rounding to b bits loses is then known beforehand. A scale covers the largest of
the n weights that share it, which of n normal ones is about their quantile at
1 − 1/(2n); rounding to the nearest step S errs by S²/12 on average, so that

    ω_b = S²/12 = (z(1 − 1/(2n)) / (2^(b−1) − 1))² / 12

is the loss relative to the weights' variance. It tells precisions apart, not layers.
Keys, values and hidden states count as normal too: a cache has a scale for the numbers of
a head, a wire one for those of a token, and what they lose weighs as much as that of the
weights that made them.
"""

from __future__ import annotations

from statistics import NormalDist

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.schema.precision import group_size_for
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity


def assumed_sensitivity(
    architecture: Architecture, *, name: str, fingerprint: str, group_size: int
) -> Sensitivity:
    """Makes the sensitivity of a model that is known by its shape alone."""
    width = architecture.hidden_size
    group = group_size_for(width, group_size)
    losses = {8: _loss(8, width), 4: _loss(4, group)}
    return Sensitivity(
        model=name,
        fingerprint=fingerprint,
        method="assumed: normal weights, all layers alike",
        unit="squared rounding error over the weights' variance",
        group_size=group_size,
        head_8=losses[8],
        kv_8=architecture.num_layers * _loss(8, architecture.head_dim),
        wire_8=losses[8],
        layers=tuple(
            LayerSensitivity(layer=layer, bits=bits, omega=losses[bits])
            for layer in range(architecture.num_layers)
            for bits in (8, 4)
        ),
    )


def _loss(bits: int, num_sharing: int) -> float:
    largest = NormalDist().inv_cdf(1.0 - 0.5 / num_sharing)
    step = largest / (2 ** (bits - 1) - 1)
    return step**2 / 12.0
