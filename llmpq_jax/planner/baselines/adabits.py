"""The quality-only baseline: the least Σω that fits, regardless of seconds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from llmpq_jax.planner.baselines.in_order import best_cut
from llmpq_jax.planner.instance.candidate import Candidate, with_min_omega
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.stage_table import (
    Role,
    StageTable,
    max_stage_layers,
    stage_table,
)

# Of plans with equal loss, the one with less work is taken; far below any ω.
_TIE = 1e-9


def adabits(instance: Instance) -> Candidate | None:
    """Minimises Σω over cuts in the cluster file's order and bits, by memory alone."""
    counts = layer_counts(instance.allowed_omega, max_length=max_stage_layers(instance))
    table = stage_table(instance, counts)
    num_layers = instance.num_layers
    shape = (instance.num_devices, num_layers + 1, num_layers + 1)
    costs, best = np.full(shape, np.inf), np.zeros(shape, dtype=np.int64)
    for t, members in enumerate(table.types.members):
        of_type, index = _stage_losses(table, t)
        for j in members:
            costs[j], best[j] = of_type, index
    held = best_cut(instance, costs, np.add)
    if held is None:
        return None
    first, devices, bits_indices = 0, [], []
    for j, num in enumerate(held):
        if num:
            devices.append(j)
            bits_indices.append(counts.bits_indices(best[j, first, num]))
            first += num
    candidate = Candidate(devices=tuple(devices), bits_indices=tuple(bits_indices))
    return with_min_omega(instance, candidate)


def _stage_losses(
    table: StageTable, t: int
) -> tuple[Float[np.ndarray, "L+1 L+1"], Int[np.ndarray, "L+1 L+1"]]:
    """Returns the least loss of k layers from i on, and the index of its counts.

    The loss is that of the layers and of the hop before them.
    """
    counts, i = table.counts, table.instance
    num_layers = counts.num_layers
    m, rounds = i.num_micro_batches, i.num_rounds
    work = m[PREFILL] * table.layers_s[PREFILL, t]
    work = work + m[DECODE] * rounds[DECODE] * table.layers_s[DECODE, t]
    tie = _TIE * float(i.omega.max() or 1.0) * work / (work.max() or 1.0)
    # A stage after another receives its hidden states over a hop, which may lose too.
    hop = float(i.wire_omega.min())
    losses = np.full((num_layers + 1, num_layers + 1), np.inf)
    indices = np.zeros(losses.shape, dtype=np.int64)
    for k in range(1, counts.max_length + 1):
        start, end = counts.length_starts[k], counts.length_starts[k + 1]
        for first in range(num_layers - k + 1):
            role = _role(first, k, num_layers)
            fits = table.fits[role][t, start:end]
            if fits.any():
                own = counts.losses[k][:, first] + tie[start:end]
                own = np.where(fits, own, np.inf)
                best = int(own.argmin())
                losses[first, k] = own[best] + (hop if first else 0.0)
                indices[first, k] = start + best
    return losses, indices


def _role(first: int, k: int, num_layers: int) -> Role:
    if first == 0:
        return "only" if k == num_layers else "first"
    return "last" if first + k == num_layers else "middle"
