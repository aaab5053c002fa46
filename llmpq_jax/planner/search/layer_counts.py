"""The least loss of any run of layers, by how many layers it has at each precision.

All layers are alike in seconds and bytes, so a stage is known by its first layer and its
*counts*: layers at each precision. Only ω asks which layer has which; for every first
layer a and counts c this file tabulates the least Σω of layers a … a + |c| − 1:

    W[a, c] = min over b with c_b > 0 of  W[a, c − e_b] + ω[a + |c| − 1, b]

since the last of them has some precision. Counts stand level by level of |c|.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.instance import Integers


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class LayerCounts:
    """Counts of up to `max_length` layers and their least losses. Axis C: counts.

    Attributes:
        num_layers: L.
        counts: [C, B].
        lengths: [C], each count's layers.
        level_starts: Counts of k layers are those from `level_starts[k]` up to
            `level_starts[k + 1]`; level 0 is empty.
        losses: For each k, [counts of k layers, L − k + 1] over first layers.
        loss_at_start: [C], of a stage that begins the model.
        loss_at_end: [C], of one that ends it.
        is_finite: Whether every layer may have any bits.
        is_uniform: Whether all layers have the same ω, so that a first layer does not
            matter.
    """

    num_layers: int
    counts: Integers
    lengths: Integers
    level_starts: Integers
    losses: tuple[Floats, ...]
    loss_at_start: Floats
    loss_at_end: Floats
    is_finite: bool
    is_uniform: bool

    @property
    def max_length(self) -> int:
        """The most layers of a stage."""
        return len(self.losses) - 1

    def loss(self, first: int, index: int) -> float:
        """Returns W of one stage."""
        k = int(self.lengths[index])
        return float(self.losses[k][index - self.level_starts[k], first])

    def find(self, counts: Integers) -> int:
        """Returns the index of counts.

        Raises:
            KeyError: They are more layers than the tables have.
        """
        k = int(counts.sum())
        if k > self.max_length:
            raise KeyError(tuple(counts))
        start, end = self.level_starts[k : k + 2]
        (place,) = np.nonzero((self.counts[start:end] == counts).all(axis=1))
        return int(start + place[0])


def layer_counts(omega: Floats, *, max_length: int) -> LayerCounts:
    """Tabulates every run of at most `max_length` layers of a model.

    Args:
        omega: [L, B], infinite where a layer may not have these bits.
        max_length: Longest run, at most L.
    """
    num_layers, num_bits = omega.shape
    levels = [np.zeros((1, num_bits), dtype=np.int64)]
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
            place = lookup[tuple(before.T)]
            value = losses[-1][place, :-1] + omega[k - 1 :, b]
            best[has] = np.minimum(best[has], value)
        levels.append(counts)
        losses.append(best)
        lookup = grid
    sizes = [0, *(len(counts) for counts in levels[1:])]
    counts = np.concatenate(levels[1:])
    return LayerCounts(
        num_layers=num_layers,
        counts=counts,
        lengths=counts.sum(axis=1),
        level_starts=np.concatenate([[0], np.cumsum(sizes)]),
        losses=(losses[0][:0], *losses[1:]),
        loss_at_start=np.concatenate([loss[:, 0] for loss in losses[1:]]),
        loss_at_end=np.concatenate([loss[:, -1] for loss in losses[1:]]),
        is_finite=bool(np.isfinite(omega).all()),
        is_uniform=bool((omega == omega[0]).all()),
    )


def _counts_of(k: int, num_bits: int) -> tuple[Integers, Integers]:
    """Lists counts that sum to k; and their places, on the grid of all but the last."""
    if num_bits == 1:
        return np.array([[k]]), np.zeros((), dtype=np.int64)
    axes = np.indices((k + 1,) * (num_bits - 1)).reshape(num_bits - 1, -1).T
    head = axes[axes.sum(axis=1) <= k]
    counts = np.concatenate([head, k - head.sum(axis=1, keepdims=True)], axis=1)
    grid = np.full((k + 1,) * (num_bits - 1), -1, dtype=np.int64)
    grid[tuple(head.T)] = np.arange(len(head))
    return counts, grid
