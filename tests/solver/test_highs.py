"""Each way a solve can end is told apart from the others."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pyomo.environ as pyo
import pytest

from llmpq_jax.solver.formulation.variables import Model
from llmpq_jax.solver.highs import solve


def empty_model() -> Model:
    model: Any = pyo.ConcreteModel()
    return model


def knapsack(least=7):
    """Three weights of 2, 3 and 5 that together reach a least: 7 by 2 and 5."""
    model = empty_model()
    model.x = pyo.Var([2, 3, 5], domain=pyo.Binary)
    total = 2 * model.x[2] + 3 * model.x[3] + 5 * model.x[5]
    model.enough = pyo.Constraint(expr=total >= least)
    model.objective = pyo.Objective(expr=total + 0.5)
    return model


def hard(seed=0, size=60):
    """A market-split problem, which branch and bound cannot finish."""
    rng = np.random.default_rng(seed)
    model = empty_model()
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
    model.objective = pyo.Objective(
        expr=sum(model.over[row] + model.under[row] for row in range(6))
    )
    return model


def solved(model, **changes):
    return solve(model, **({"time_limit_s": 60.0, "relative_gap": 0.0} | changes))


def test_an_optimum_is_written_to_the_variables():
    model = knapsack()
    outcome = solved(model)
    assert (outcome.status, outcome.has_solution) == ("optimal", True)
    assert outcome.bound == pytest.approx(7.5)
    assert [round(model.x[weight].value) for weight in (2, 3, 5)] == [1, 0, 1]


def test_infeasible_has_no_solution_and_an_infinite_bound():
    outcome = solved(knapsack(least=11))
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
    outcome = solved(hard(), time_limit_s=0.5)
    assert (outcome.status, outcome.has_solution) == ("stopped", True)
    assert outcome.bound >= 0.0


def test_ctrl_c_is_heard_while_highs_runs():
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    outcome = solved(hard())
    timer.join()
    assert outcome.status == "interrupted"
    assert outcome.has_solution


def test_an_error_of_highs_is_not_passed_over():
    model = knapsack()
    model.free = pyo.Var(domain=pyo.Reals)
    model.objective.expr = model.free
    with pytest.raises(RuntimeError, match="HiGHS ended with"):
        solved(model)
