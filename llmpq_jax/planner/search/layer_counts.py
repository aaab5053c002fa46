"""The least loss of any run of layers, by how many layers it has at each precision.

All layers take the same seconds and bytes, so a stage is known by its first layer and its
*counts*: layers at each precision. Only ω depends on which layer has which; for every
first layer a and counts c this file tabulates the least Σω of layers a … a + |c| − 1:

    W[a, c] = min over b with c_b > 0 of  W[a, c − e_b] + ω[a + |c| − 1, b]

since the last of them has some precision. Counts are sorted by their length |c|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Integers


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LayerCounts:
    """Counts of up to `max_length` layers and their least losses. Axis C: counts.

    Attributes:
        num_layers: Number of layers L of the model.
        counts: Layers at each precision, [C, B].
        lengths: Number of layers of each count, [C].
        length_starts: Index of the first counts of each length, [K + 2]; those of k layers
            end where those of k + 1 start, and there are none of length 0.
        losses: Least loss by first layer, [counts of k layers, L − k + 1] for each k.
        loss_at_start: Least loss of a stage that has the first layer, [C].
        loss_at_end: Least loss of a stage that has the last layer, [C].
        is_finite: Whether every layer may have any bits.
        is_uniform: Whether all layers have the same ω, so that the first layer of a stage
            makes no difference.
    """

    num_layers: int
    counts: Int[np.ndarray, "C B"]
    lengths: Int[np.ndarray, " C"]
    length_starts: Int[np.ndarray, " K+2"]
    losses: tuple[Floats, ...]
    loss_at_start: Float[np.ndarray, " C"]
    loss_at_end: Float[np.ndarray, " C"]
    is_finite: bool
    is_uniform: bool

    @property
    def max_length(self) -> int:
        """Largest number of layers K of a stage."""
        return len(self.losses) - 1

    def loss(self, first: int, index: int) -> float:
        """Returns W of one stage."""
        k = int(self.lengths[index])
        return float(self.losses[k][index - self.length_starts[k], first])

    def bits_indices(self, index: int) -> tuple[int, ...]:
        """Returns a precision for each layer of some counts, as indices of axis B."""
        return tuple(b for b, n in enumerate(self.counts[index]) for _ in range(n))


def layer_counts(omega: Float[np.ndarray, "L B"], *, max_length: int) -> LayerCounts:
    """Tabulates every run of at most `max_length` layers of a model.

    `omega` is infinite where a layer may not have these bits.
    """
    num_layers, num_bits = omega.shape
    of_length = [np.zeros((1, num_bits), dtype=np.int64)]
    losses = [np.zeros((1, num_layers + 1))]
    lookup = np.zeros((1,) * (num_bits - 1), dtype=np.int64)
    for k in range(1, max_length + 1):
        counts, grid = _counts_of(k, num_bits)
        best = np.full((len(counts), num_layers - k + 1), np.inf)
        for b in range(num_bits):
            (has,) = np.nonzero(counts[:, b])
            before = counts[has, : num_bits - 1].copy()
            if b < num_bits - 1:
                before[:, b] -= 1
            index = lookup[tuple(before.T)]
            value = losses[-1][index, :-1] + omega[k - 1 :, b]
            best[has] = np.minimum(best[has], value)
        of_length.append(counts)
        losses.append(best)
        lookup = grid
    sizes = [0, *(len(counts) for counts in of_length[1:])]
    counts = np.concatenate(of_length[1:])
    return LayerCounts(
        num_layers=num_layers,
        counts=counts,
        lengths=counts.sum(axis=1),
        length_starts=np.concatenate([[0], np.cumsum(sizes)]),
        losses=(losses[0][:0], *losses[1:]),
        loss_at_start=np.concatenate([loss[:, 0] for loss in losses[1:]]),
        loss_at_end=np.concatenate([loss[:, -1] for loss in losses[1:]]),
        is_finite=bool(np.isfinite(omega).all()),
        is_uniform=bool((omega == omega[0]).all()),
    )


def _counts_of(k: int, num_bits: int) -> tuple[Integers, Integers]:
    """Lists counts that sum to k, and their indices on the grid of all but the last."""
    if num_bits == 1:
        return np.array([[k]]), np.zeros((), dtype=np.int64)
    axes = np.indices((k + 1,) * (num_bits - 1)).reshape(num_bits - 1, -1).T
    head = axes[axes.sum(axis=1) <= k]
    counts = np.concatenate([head, k - head.sum(axis=1, keepdims=True)], axis=1)
    grid = np.full((k + 1,) * (num_bits - 1), -1, dtype=np.int64)
    grid[tuple(head.T)] = np.arange(len(head))
    return counts, grid
