"""Each outcome of a solve is distinguished from the others."""

from __future__ import annotations

from typing import Any

import highspy
import numpy as np
import pyomo.environ as pyo
import pytest

from llmpq_jax.planner.search.node_mip.highs import solve


def total(variables: Any, weights: Any) -> Any:
    """Σ weight · variable; typed by hand, since Pyomo's types forbid the product."""
    return sum(weight * variables[key] for key, weight in weights.items())


def knapsack(minimum=7) -> Any:
    """Three weights of 2, 3 and 5 that together reach a minimum: 7 by 2 and 5."""
    model = pyo.ConcreteModel()
    model.x = pyo.Var([2, 3, 5], domain=pyo.Binary)
    weight = total(model.x, {2: 2, 3: 3, 5: 5})
    model.enough = pyo.Constraint(expr=weight >= minimum)
    model.objective = pyo.Objective(expr=weight + 0.5)
    return model


def hard(seed=0, size=60):
    """A market-split problem, which branch and bound cannot finish."""
    rng = np.random.default_rng(seed)
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(size), domain=pyo.Binary)
    model.over = pyo.Var(range(6), domain=pyo.NonNegativeReals)
    model.under = pyo.Var(range(6), domain=pyo.NonNegativeReals)
    weights = rng.integers(0, 100, (6, size))
    model.split = pyo.Constraint(
        range(6),
        rule=lambda m, row: (
            sum(int(weights[row, i]) * m.x[i] for i in range(size))
            + m.over[row]
            - m.under[row]
            == int(weights[row].sum() // 2)
        ),
    )
    ones = dict.fromkeys(range(6), 1)
    missed = total(model.over, ones) + total(model.under, ones)
    model.objective = pyo.Objective(expr=missed)
    return model


def solved(model, **changes):
    return solve(model, **({"time_limit_s": 60.0, "relative_gap": 0.0} | changes))


def test_an_optimum_is_written_to_the_variables():
    model: Any = knapsack()
    outcome = solved(model)
    assert (outcome.status, outcome.has_solution) == ("optimal", True)
    assert outcome.bound == pytest.approx(7.5)
    assert [round(model.x[weight].value) for weight in (2, 3, 5)] == [1, 0, 1]


def test_infeasible_has_no_solution_and_an_infinite_bound():
    outcome = solved(knapsack(minimum=11))
    assert (outcome.status, outcome.has_solution) == ("infeasible", False)
    assert outcome.bound == float("inf")


def test_nothing_better_than_the_cutoff_proves_the_cutoff():
    outcome = solved(knapsack(), cutoff=7.4)
    assert (outcome.status, outcome.has_solution) == ("infeasible", False)
    assert outcome.bound == 7.4


def test_something_better_than_the_cutoff_is_found():
    outcome = solved(knapsack(), cutoff=8.0)
    assert outcome.status == "optimal"
    assert outcome.bound == pytest.approx(7.5)


def test_the_time_limit_keeps_solution_and_bound():
    outcome = solved(hard(), time_limit_s=2.0)
    assert (outcome.status, outcome.has_solution) == ("stopped", True)
    assert outcome.bound >= 0.0


def test_ctrl_c_is_heard_while_highs_runs(monkeypatch):
    wait, calls = highspy.Highs.wait, []

    def interrupted_wait(highs, timeout):
        calls.append(timeout)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return wait(highs, timeout)

    monkeypatch.setattr(highspy.Highs, "wait", interrupted_wait)
    outcome = solved(hard())
    assert (outcome.status, outcome.has_solution) == ("interrupted", True)


def test_an_error_of_highs_is_not_passed_over():
    model: Any = knapsack()
    model.free = pyo.Var(domain=pyo.Reals)
    model.objective.expr = model.free
    with pytest.raises(RuntimeError, match="HiGHS ended with"):
        solved(model)


@pytest.mark.parametrize("time_limit_s", [-28.0, 0.0])
def test_without_time_highs_is_not_asked(monkeypatch, time_limit_s):
    def refused(*_):
        pytest.fail("HiGHS was given a limit that is over")

    monkeypatch.setattr(highspy.Highs, "startSolve", refused)
    outcome = solved(knapsack(), time_limit_s=time_limit_s)
    assert (outcome.status, outcome.has_solution) == ("stopped", False)
    assert outcome.bound == -float("inf")


def test_highs_is_ended_if_it_does_not_end_by_itself(monkeypatch):
    """Some of its steps do not look at its limit, which here is not passed on."""
    set_value = highspy.Highs.setOptionValue

    def without_limit(highs, name, value):
        return None if name == "time_limit" else set_value(highs, name, value)

    monkeypatch.setattr(highspy.Highs, "setOptionValue", without_limit)
    outcome = solved(hard(), time_limit_s=1.0)
    assert (outcome.status, outcome.has_solution) == ("stopped", True)
