"""The fixed-order referee is what its table says and what its golden files hold."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
import pytest
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from llmpq_jax.units import GIB
from tests.referees.fixed_order import (
    BY_PHASE,
    CONSTRAINTS,
    GOALS,
    constraints,
    formulate,
)
from tools.write_golden_lp import (
    REFEREE_FOLDER,
    constraint_text,
    example,
    objective_text,
)

DOCUMENT = Path(__file__).parent / "README.md"
NAMES = [add.__name__ for add in CONSTRAINTS]
NUMBERED = list(enumerate(CONSTRAINTS, start=1))


@pytest.mark.parametrize("name", constraints())
def test_a_constraint_is_its_golden_file(name):
    golden = (REFEREE_FOLDER / f"{name}.lp").read_text(encoding="utf-8")
    assert constraint_text(constraints()[name]) == golden


@pytest.mark.parametrize("goal", GOALS)
def test_an_objective_is_its_golden_file(goal):
    golden = (REFEREE_FOLDER / f"minimize_{goal}.lp").read_text(encoding="utf-8")
    assert objective_text(goal) == golden


@pytest.mark.parametrize(("number", "add"), NUMBERED, ids=NAMES)
def test_a_constraint_carries_the_number_of_its_row(number, add):
    module = add.__module__.removeprefix("tests.referees.fixed_order.")
    name = add.__name__
    files = f"`{name}.lp`"
    if add in BY_PHASE:
        files = f"`prefill_{name}.lp`, `decode_{name}.lp`"
    ends = f"| `{module}.{name}` | {files} |"
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
    assert all(model.find_component(name) is not None for name in constraints())


def test_units_of_bytes_and_seconds_do_not_show():
    """HiGHS's tolerances are absolute, so a plan must not depend on what a unit is."""
    given = example()
    other = replace(
        given,
        theta=given.theta * SECOND,
        devices=replace(
            given.devices,
            **in_unit(given.devices, "_bytes", GIB),
            **in_unit(given.devices, "_s", SECOND),
        ),
        **in_unit(given, "_bytes", GIB),
        **in_unit(given, "_s", SECOND),
    )
    assert matrix(other) == pytest.approx(matrix(given))


SECOND = 1e-6


def in_unit(record, ending, unit):
    names = [field.name for field in fields(record) if field.name.endswith(ending)]
    return {name: getattr(record, name) * unit for name in names}


def matrix(instance):
    model = formulate(instance).model
    form = LinearStandardFormCompiler().write(model, mixed_form=True)
    rows = np.hstack([form.A.todense(), np.asarray(form.rhs)[:, None]])
    costs = np.append(form.c.todense(), form.c_offset)
    return np.vstack([rows, costs])
