"""Baselines of one precision against every cut, under their own rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given

from llmpq_jax.planner.baselines.in_order import (
    memory_proportional,
    pipeedge,
    uniform,
)
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from tests.planner.random_instances import subproblem_lists


def cuts(instance, b):
    """Every cut in file order at one precision that fits, with its evaluation."""
    sizes = range(instance.num_layers + 1)
    for held in product(sizes, repeat=instance.num_devices):
        if sum(held) != instance.num_layers:
            continue
        if any(
            must and not num
            for must, num in zip(instance.devices.must_use, held, strict=True)
        ):
            continue
        devices = tuple(j for j, num in enumerate(held) if num)
        if not all(instance.devices.supported[j, b] for j in devices):
            continue
        candidate = Candidate(
            devices=devices, bits_indices=tuple((b,) * held[j] for j in devices)
        )
        found = evaluate(instance, candidate)
        if found.fits and np.isfinite(found.objective):
            yield held, candidate, found


def slowest_decode(instance, candidate, found):
    """Stages, and hops between neighbours of the file as PipeEdge sees them."""
    hops = [instance.hop_s[1, 0, j - 1, j] for j in candidate.devices[1:]]
    return max([*found.stages_s[1], *hops])


@given(subproblem_lists(max_number=1))
def test_pipeedge_has_the_fastest_slowest_stage_of_decode(instances):
    (instance,) = instances
    instance = free_of_budget(instance)
    for b in range(len(instance.bits)):
        candidate = pipeedge(instance, b)
        every = list(cuts(instance, b))
        assert (candidate is None) == (not every)
        if candidate is not None:
            own = slowest_decode(instance, candidate, evaluate(instance, candidate))
            best = min(slowest_decode(instance, p, e) for _, p, e in every)
            assert own == pytest.approx(best, rel=1e-9)


@given(subproblem_lists(max_number=1))
def test_uniform_is_the_cut_whose_stages_differ_by_one_layer_at_most(instances):
    (instance,) = instances
    instance = free_of_budget(instance)
    for b in range(len(instance.bits)):
        candidate = uniform(instance, b)
        even = [
            p
            for held, p, _ in cuts(instance, b)
            if max(held) - min(held) <= 1 and list(held) == sorted(held, reverse=True)
        ]
        assert candidate == (even[0] if even else None)


@given(subproblem_lists(max_number=1))
def test_memory_proportional_is_the_cut_nearest_to_the_shares_of_memory(instances):
    (instance,) = instances
    instance = free_of_budget(instance)
    allowed = [int(size) for size in instance.devices.allowed_bytes]
    num_layers, num_devices = instance.num_layers, instance.num_devices

    def distance(held):
        parts = zip(held, allowed, strict=True)
        return sum((n * sum(allowed) - num_layers * size) ** 2 for n, size in parts)

    every = [
        held
        for held in product(range(num_layers + 1), repeat=num_devices)
        if sum(held) == num_layers
    ]
    # Of equal distances the cut that gives most layers to earlier devices.
    nearest = max(h for h in every if distance(h) == min(map(distance, every)))
    for b in range(len(instance.bits)):
        candidate = memory_proportional(instance, b)
        fitting = [p for held, p, _ in cuts(instance, b) if held == nearest]
        assert candidate == (fitting[0] if fitting else None)


def free_of_budget(instance):
    return replace(instance, omega_budget=None)
