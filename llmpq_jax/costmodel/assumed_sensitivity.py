"""Sensitivity of a model without weights: equal layers with normally distributed weights.

The expected rounding loss at b bits is then known. A scale covers the largest of the n
weights that share it. Of n normal weights that is about their quantile at 1 − 1/(2n), and
rounding to the nearest multiple of S has a mean squared error of S²/12, so that

    ω_b = S²/12 = (z(1 − 1/(2n)) / (2^(b−1) − 1))² / 12

is the loss relative to the variance of the weights. It distinguishes precisions, not
layers. Keys, values and hidden states are taken as normal too: a cache has one scale per
head and token, a wire one per token, and their losses weigh as much as those of the
weights that produced them.
"""

from __future__ import annotations

from statistics import NormalDist

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.schema.precision import group_size_for
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity


def assumed_sensitivity(
    architecture: Architecture, *, name: str, fingerprint: str, group_size: int
) -> Sensitivity:
    """Returns the sensitivity of a model of which only the architecture is known."""
    width = architecture.hidden_size
    group = group_size_for(width, group_size)
    losses = {8: _loss(8, width), 4: _loss(4, group)}
    return Sensitivity(
        model=name,
        fingerprint=fingerprint,
        method="assumed: normal weights, equal layers",
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
