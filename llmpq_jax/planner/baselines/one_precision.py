"""Baselines whose layers all have one precision: uniform, by memory, PipeEdge-like."""

from __future__ import annotations

import numpy as np

from llmpq_jax.planner.baselines.in_order import best_cut, one_precision_fits
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from llmpq_jax.planner.instance.instance import Instance


def uniform(instance: Instance, b: int) -> Candidate | None:
    """Cuts the model evenly over all devices; earlier ones hold what is left over.

    Returns nothing where that does not fit, at the precision of column `b`.
    """
    size, rest = divmod(instance.num_layers, instance.num_devices)
    held = [size + (j < rest) for j in range(instance.num_devices)]
    return _placed(instance, held, b)


def memory_proportional(instance: Instance, b: int) -> Candidate | None:
    """Cuts the model as memory is shared out: each device has its part of the layers.

    Parts are rounded by largest remainders, of which equal ones go to earlier devices.
    Returns nothing where that does not fit, at the precision of column `b`.
    """
    allowed = [max(0, int(size)) for size in instance.allowed_bytes]
    total = sum(allowed)
    if total == 0:
        return None
    parts = [divmod(instance.num_layers * size, total) for size in allowed]
    held = [whole for whole, _ in parts]
    by_remainder = sorted(range(len(parts)), key=lambda j: -parts[j][1])
    for j in by_remainder[: instance.num_layers - sum(held)]:
        held[j] += 1
    return _placed(instance, held, b)


def pipeedge(instance: Instance, b: int) -> Candidate | None:
    """Cuts the model so that the slowest stage of decode is fastest, by device.

    Heterogeneity-aware and phase-blind: prefill is not looked at, and hops count as
    stages of their own where two neighbours in the cluster file both serve.
    """
    num_layers, num_devices = instance.num_layers, instance.num_devices
    first, k = np.indices((num_layers + 1, num_layers + 1))
    costs = np.full((num_devices, num_layers + 1, num_layers + 1), np.inf)
    fits = one_precision_fits(instance, b)
    for j in range(num_devices):
        if not instance.supported[j, b]:
            continue
        call = np.where(
            k == num_layers,
            instance.whole_dispatch_decode_s[j],
            instance.dispatch_decode_s[j],
        )
        seconds = call + k * instance.layer_decode_s[j, b]
        if instance.may_be_first[j]:
            seconds = seconds + (first == 0) * instance.embedding_decode_s[j]
        if instance.may_be_last[j]:
            at_end = first + k == num_layers
            seconds = seconds + at_end * instance.head_decode_s[j]
        if j > 0:
            hop = instance.hop_decode_s[0, j - 1, j]
            seconds = np.maximum(seconds, np.where(first > 0, hop, 0.0))
        costs[j] = np.where(fits[j], seconds, np.inf)
    held = best_cut(instance, costs, np.maximum)
    return None if held is None else _placed(instance, held, b)


def _placed(instance: Instance, held: list[int], b: int) -> Candidate | None:
    devices = tuple(j for j, num in enumerate(held) if num)
    if instance.must_use[[j for j, num in enumerate(held) if not num]].any():
        return None
    if not all(instance.supported[j, b] for j in devices):
        return None
    candidate = Candidate(
        devices=devices, columns=tuple((b,) * held[j] for j in devices)
    )
    evaluation = evaluate(instance, candidate)
    fits = evaluation.fits and np.isfinite(evaluation.objective)
    return candidate if fits else None
