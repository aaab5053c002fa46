"""Baselines that cut the model over devices in the cluster file's order.

At one precision: equal stages, stages by memory, and PipeEdge's cut; adabits is the
quality-only baseline, the least Σω that fits, regardless of seconds. Best cuts are found by
dynamic programming,

    best[j, i] = min over k of  combine(best[j − 1, i − k], cost[j, i − k, k])

where k = 0 costs nothing: any device may stay idle, unless it must be used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from llmpq_jax.costmodel.monotone_table import Floats
from llmpq_jax.planner.instance.candidate import Candidate, evaluate, with_min_omega
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.stage_bytes import ROLES, fitting_stages
from llmpq_jax.planner.search.layer_counts import layer_counts
from llmpq_jax.planner.search.stage_table import (
    StageTable,
    max_stage_layers,
    stage_table,
)

# Of plans with equal loss, the one with less work is taken; far below any ω.
_TIE = 1e-9


def uniform(instance: Instance, b: int) -> Candidate | None:
    """Cuts the model evenly over all devices; earlier ones hold the remainder.

    Returns None if that does not fit at the precision of index `b`.
    """
    size, rest = divmod(instance.num_layers, instance.num_devices)
    held = [size + (j < rest) for j in range(instance.num_devices)]
    return _candidate(instance, held, b)


def memory_proportional(instance: Instance, b: int) -> Candidate | None:
    """Gives each device layers in proportion to its memory.

    Shares are rounded by largest remainders, of which equal ones go to earlier devices.
    Returns None if that does not fit at the precision of index `b`.
    """
    allowed = [max(0, int(size)) for size in instance.devices.allowed_bytes]
    total = sum(allowed)
    if total == 0:
        return None
    shares = [divmod(instance.num_layers * size, total) for size in allowed]
    held = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(shares)), key=lambda j: -shares[j][1])
    for j in by_remainder[: instance.num_layers - sum(held)]:
        held[j] += 1
    return _candidate(instance, held, b)


def pipeedge(instance: Instance, b: int) -> Candidate | None:
    """Cuts the model so that the slowest stage of decode is as fast as possible.

    Heterogeneity-aware and phase-blind: prefill is ignored, and hops count as stages of
    their own between two neighbours in the cluster file that both serve.
    """
    d = instance.devices
    num_layers, num_devices = instance.num_layers, instance.num_devices
    first, k = np.indices((num_layers + 1, num_layers + 1))
    costs = np.full((num_devices, num_layers + 1, num_layers + 1), np.inf)
    fits = one_precision_fits(instance, b)
    for j in range(num_devices):
        if not d.supported[j, b]:
            continue
        dispatch_s = np.where(
            k == num_layers, d.whole_dispatch_s[DECODE, j], d.dispatch_s[DECODE, j]
        )
        seconds = dispatch_s + k * d.layer_s[DECODE, j, b]
        if d.may_be_first[j]:
            seconds = seconds + (first == 0) * d.embedding_s[DECODE, j]
        if d.may_be_last[j]:
            at_end = first + k == num_layers
            seconds = seconds + at_end * d.head_s[DECODE, j]
        if j > 0:
            hop_s = instance.hop_s[DECODE, 0, j - 1, j]
            seconds = np.maximum(seconds, np.where(first > 0, hop_s, 0.0))
        costs[j] = np.where(fits[j], seconds, np.inf)
    held = best_cut(instance, costs, np.maximum)
    return None if held is None else _candidate(instance, held, b)


def _candidate(instance: Instance, held: list[int], b: int) -> Candidate | None:
    """Returns the plan in which each device holds this many layers, if it fits."""
    devices = tuple(j for j, num in enumerate(held) if num)
    idle = [j for j, num in enumerate(held) if not num]
    if instance.devices.must_use[idle].any():
        return None
    if not all(instance.devices.supported[j, b] for j in devices):
        return None
    candidate = Candidate(
        devices=devices, bits_indices=tuple((b,) * held[j] for j in devices)
    )
    cost = evaluate(instance, candidate)
    return candidate if cost.fits and np.isfinite(cost.objective) else None


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
            role = ROLES[(first == 0) + 2 * (first + k == num_layers)]
            fits = table.fits[role][t, start:end]
            if fits.any():
                own = counts.losses[k][:, first] + tie[start:end]
                own = np.where(fits, own, np.inf)
                best = int(own.argmin())
                losses[first, k] = own[best] + (hop if first else 0.0)
                indices[first, k] = start + best
    return losses, indices


def best_cut(
    instance: Instance,
    costs: Float[np.ndarray, "J L+1 L+1"],
    combine: Callable[[Floats, Floats], Floats],
) -> list[int] | None:
    """Returns how many layers each device holds in the cheapest cut, or None.

    `costs` are those of k layers on device j from layer i on, infinite if they do not fit;
    `combine` is `np.add` for a sum over stages, `np.maximum` for the slowest.
    """
    must_use = instance.devices.must_use
    num_devices, num_layers = costs.shape[0], instance.num_layers
    best = np.where(np.arange(num_layers + 1) == 0, 0.0, np.inf)
    choices = np.zeros((num_devices, num_layers + 1), dtype=np.int64)
    for j in range(num_devices):
        after = np.full(num_layers + 1, np.inf)
        for end in range(num_layers + 1):
            first = np.arange(end + 1)
            own = costs[j, first, end - first]
            own = np.where(first == end, np.inf if must_use[j] else 0.0, own)
            values = combine(best[: end + 1], own)
            # An idle device changes nothing, with either combination.
            if not must_use[j]:
                values[end] = best[end]
            # Of equal cuts the one that gives most layers to earlier devices.
            last = int(np.flatnonzero(values == values.min())[-1])
            after[end], choices[j, end] = values[last], last
        best = after
    if not np.isfinite(best[num_layers]):
        return None
    held, end = [], num_layers
    for j in reversed(range(num_devices)):
        first = int(choices[j, end])
        held.insert(0, end - first)
        end = first
    return held


def one_precision_fits(instance: Instance, b: int) -> Bool[np.ndarray, "J L+1 L+1"]:
    """Returns whether k layers from i on fit a device, all at one precision."""
    num_layers = instance.num_layers
    counts = np.zeros((num_layers + 1, len(instance.bits)), dtype=np.int64)
    counts[:, b] = np.arange(num_layers + 1)
    by_role = fitting_stages(instance, range(instance.num_devices), counts)
    first, k = np.indices((num_layers + 1, num_layers + 1))
    is_first, is_last = first == 0, first + k == num_layers
    fits = np.select(
        [is_first & is_last, is_first, is_last],
        [by_role[role][:, k] for role in ("only", "first", "last")],
        by_role["middle"][:, k],
    )
    return fits & (k > 0) & (first + k <= num_layers)
