"""The fixed-order referee is what its table says and what its golden files hold."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
import pytest
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.units import GIB
from tests.referees.fixed_order import CONSTRAINTS, GOALS, formulate
from tools.write_golden_lp import (
    REFEREE_FOLDER,
    constraint_text,
    example,
    objective_text,
)

DOCUMENT = Path(__file__).parent / "README.md"
NAMES = [add.__name__ for add in CONSTRAINTS]
NUMBERED = list(enumerate(CONSTRAINTS, start=1))


@pytest.mark.parametrize("add", CONSTRAINTS, ids=NAMES)
def test_a_constraint_is_its_golden_file(add):
    golden = (REFEREE_FOLDER / f"{add.__name__}.lp").read_text(encoding="utf-8")
    assert constraint_text(add) == golden


@pytest.mark.parametrize("goal", GOALS)
def test_an_objective_is_its_golden_file(goal):
    golden = (REFEREE_FOLDER / f"minimize_{goal}.lp").read_text(encoding="utf-8")
    assert objective_text(goal) == golden


@pytest.mark.parametrize(("number", "add"), NUMBERED, ids=NAMES)
def test_a_constraint_carries_the_number_of_its_row(number, add):
    module = add.__module__.removeprefix("tests.referees.fixed_order.")
    name = add.__name__
    ends = f"| `{module}.{name}` | `{name}.lp` |"
    (row,) = re.findall(rf"^\| \(F{number}\) .*$", DOCUMENT.read_text(), re.MULTILINE)
    assert row.endswith(ends)
    assert add.__doc__.startswith(f"(F{number}) ")


def test_the_table_has_no_row_too_many():
    rows = re.findall(r"^\| \(F(\d+)\) ", DOCUMENT.read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == [number for number, _ in NUMBERED]


def test_variables_are_named_in_the_document():
    for variable in formulate(example()).model.component_objects(pyo.Var):
        assert f"`{variable.name}`" in DOCUMENT.read_text()


def test_every_constraint_is_in_the_model():
    model = formulate(example()).model
    assert all(model.find_component(name) is not None for name in NAMES)


def test_units_of_bytes_and_seconds_do_not_show():
    """HiGHS's tolerances are absolute, so a plan must not hang on what a unit is."""
    given = example()
    other = replace(
        given,
        theta=given.theta * SECOND,
        **{name: getattr(given, name) * GIB for name in fields_ending("_bytes")},
        **{name: getattr(given, name) * SECOND for name in fields_ending("_s")},
    )
    assert matrix(other) == pytest.approx(matrix(given))


SECOND = 1e-6


def fields_ending(ending):
    return [field.name for field in fields(Instance) if field.name.endswith(ending)]


def matrix(instance):
    model = formulate(instance).model
    form = LinearStandardFormCompiler().write(model, mixed_form=True)
    rows = np.hstack([form.A.todense(), np.asarray(form.rhs)[:, None]])
    costs = np.append(form.c.todense(), form.c_offset)
    return np.vstack([rows, costs])
