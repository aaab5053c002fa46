"""The fixed-order referee is what its table says and what its golden files hold."""

from __future__ import annotations

import re
from pathlib import Path

import pyomo.environ as pyo
import pytest

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
