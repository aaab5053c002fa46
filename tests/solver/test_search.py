"""Enumeration referees the search; then laws that every planner must obey."""

from __future__ import annotations

import pytest
from hypothesis import given

from llmpq_jax.solver import search as search_module
from llmpq_jax.solver.brute_force import (
    best_by_enumeration,
    least_omega_by_enumeration,
)
from llmpq_jax.solver.search import search
from tests.solver.random_instances import case_lists

LONG_S = 60.0
EXACT = 1e-8


def best(instances, **options):
    result = search(instances, time_limit_s=LONG_S, relative_gap=EXACT, **options)
    return result.found.value if result.found else None


def same(found, expected):
    return (found is None) == (expected is None) and (
        found is None or found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    )


@given(case_lists())
def test_the_search_finds_what_enumeration_finds(instances):
    assert same(best(instances), best_by_enumeration(instances))


@given(case_lists())
def test_highs_alone_finds_what_enumeration_finds(instances):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_module, "starting_placements", lambda _: ())
        assert same(best(instances), best_by_enumeration(instances))


@given(case_lists())
def test_the_least_omega_is_enumerations(instances):
    assert same(best(instances, goal="omega"), least_omega_by_enumeration(instances))
