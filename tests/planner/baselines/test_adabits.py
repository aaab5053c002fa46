"""The quality-only plan loses the least of all that fit, in the cluster's order."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from hypothesis import given

from llmpq_jax.planner.baselines.in_order import adabits
from llmpq_jax.planner.instance.candidate import Candidate, evaluate
from tests.planner.random_instances import subproblem_lists


def plans_in_order(instance):
    pinned = set(np.flatnonzero(instance.devices.must_use))
    for num_used in range(1, min(instance.num_devices, instance.num_layers) + 1):
        for devices in combinations(range(instance.num_devices), num_used):
            if not pinned <= set(devices):
                continue
            for inner in combinations(range(1, instance.num_layers), num_used - 1):
                cut = list(pairwise((0, *inner, instance.num_layers)))
                for bits in product(
                    range(len(instance.bits)), repeat=instance.num_layers
                ):
                    bits_indices = tuple(bits[first:end] for first, end in cut)
                    candidate = Candidate(devices=devices, bits_indices=bits_indices)
                    found = evaluate(instance, candidate)
                    if found.fits and np.isfinite(found.objective):
                        yield found


@given(subproblem_lists(max_number=1, max_layers=3))
def test_no_plan_in_the_clusters_order_loses_less(instances):
    instance = replace(instances[0], omega_budget=None)
    candidate = adabits(instance)
    lowest = min((found.omega for found in plans_in_order(instance)), default=None)
    assert (candidate is None) == (lowest is None)
    if candidate is not None:
        found = evaluate(instance, candidate)
        assert found.fits
        # Ties are broken by less than 1e-9 of the largest loss of a layer each.
        slack = 1e-9 * instance.omega.max() * instance.num_layers
        assert found.omega == pytest.approx(lowest, rel=1e-9, abs=slack)
