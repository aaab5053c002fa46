"""Baselines of one precision: equal stages, stages by memory, and PipeEdge's cut."""

from __future__ import annotations

import numpy as np

from llmpq_jax.planner.baselines.in_order import best_cut, one_precision_fits
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from llmpq_jax.planner.instance.device_numbers import DECODE
from llmpq_jax.planner.instance.instance import Instance


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
