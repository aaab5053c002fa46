"""The quality-only baseline: the least Σω that fits, whatever it takes."""

from __future__ import annotations

import numpy as np

from llmpq_jax.planner.baselines.in_order import best_cut
from llmpq_jax.planner.instance.candidate import Candidate, with_min_omega
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.stage_table import (
    Role,
    StageTable,
    max_stage_layers,
    stage_table,
)

# Of plans that lose equally, the one with less work is taken; far below any ω.
_TIE = 1e-9


def adabits(instance: Instance) -> Candidate | None:
    """Minimises Σω over cuts in the cluster file's order and bits, by memory alone."""
    counts = layer_counts(instance.allowed_omega, max_length=max_stage_layers(instance))
    tables = stage_table(instance, counts)
    num_layers = instance.num_layers
    shape = (instance.num_devices, num_layers + 1, num_layers + 1)
    costs, best = np.full(shape, np.inf), np.zeros(shape, dtype=np.int64)
    for t, group in enumerate(tables.types.members):
        of_type, index = _stage_losses(tables, t)
        for j in group:
            costs[j], best[j] = of_type, index
    held = best_cut(instance, costs, np.add)
    if held is None:
        return None
    first, devices, columns = 0, [], []
    for j, num in enumerate(held):
        if num:
            chosen = counts.counts[best[j, first, num]]
            devices.append(j)
            columns.append(tuple(b for b, n in enumerate(chosen) for _ in range(n)))
            first += num
    candidate = Candidate(devices=tuple(devices), columns=tuple(columns))
    return with_min_omega(instance, candidate)


def _stage_losses(tables: StageTable, t: int) -> tuple[np.ndarray, np.ndarray]:
    """[L + 1, L + 1] twice: the least loss of k layers from i on, and its counts.

    The loss is that of the layers and of the hop before them.
    """
    counts, i = tables.counts, tables.instance
    num_layers = counts.num_layers
    work = i.num_prefill * tables.prefill_s[t]
    work = work + i.num_decode * (i.new_tokens - 1) * tables.decode_s[t]
    tie = _TIE * float(i.omega.max() or 1.0) * work / (work.max() or 1.0)
    # A stage behind another gets its hidden states over a hop, which may lose too.
    hop = float(i.wire_omega.min())
    losses = np.full((num_layers + 1, num_layers + 1), np.inf)
    indices = np.zeros(losses.shape, dtype=np.int64)
    for k in range(1, counts.max_length + 1):
        start, end = counts.level_starts[k], counts.level_starts[k + 1]
        for first in range(num_layers - k + 1):
            role = _role(first, k, num_layers)
            fits = tables.fits[role][t, start:end]
            if fits.any():
                own = counts.losses[k][:, first] + tie[start:end]
                own = np.where(fits, own, np.inf)
                at = int(own.argmin())
                arriving = hop if first else 0.0
                losses[first, k], indices[first, k] = own[at] + arriving, start + at
    return losses, indices


def _role(first: int, k: int, num_layers: int) -> Role:
    if first == 0:
        return "only" if k == num_layers else "first"
    return "last" if first + k == num_layers else "middle"
