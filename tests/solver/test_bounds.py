"""Closed-form bounds bound, and starting plans are plans."""

from __future__ import annotations

from hypothesis import given

from llmpq_jax.solver.bounds import objective_bound, omega_bound
from llmpq_jax.solver.brute_force import feasible_plans
from llmpq_jax.solver.placement import evaluate
from llmpq_jax.solver.relaxation import relaxed_bound
from llmpq_jax.solver.start import starting_placements
from tests.solver.random_instances import case_lists


@given(case_lists(max_layers=3))
def test_no_plan_is_below_the_bounds(instances):
    for instance in instances:
        least = objective_bound(instance)
        relaxed = relaxed_bound(instance)
        assert relaxed >= least
        least_omega = omega_bound(instance)
        for objective, omega in feasible_plans(instance):
            assert objective >= max(least, relaxed)
            assert omega >= least_omega


@given(case_lists())
def test_a_starting_plan_holds_every_layer_at_one_precision_that_is_served(instances):
    for instance in instances:
        for placement in starting_placements(instance):
            layers = [b for columns in placement.columns for b in columns]
            assert len(layers) == instance.num_layers
            assert len(set(layers)) == 1
            assert all(instance.supported[j, layers[0]] for j in placement.devices)
            assert list(placement.devices) == sorted(set(placement.devices))
            assert set(instance.must_use.nonzero()[0]) <= set(placement.devices)


@given(case_lists())
def test_a_starting_plan_that_fits_is_among_those_enumerated(instances):
    for instance in instances:
        plans = list(feasible_plans(instance))
        for placement in starting_placements(instance):
            found = evaluate(instance, placement)
            if found.fits:
                assert any(abs(found.objective - value) < 1e-9 for value, _ in plans)
