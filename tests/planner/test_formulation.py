"""The arc-flow model is what its table says and what its golden files hold."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyomo.environ as pyo
import pytest
from pyomo.repn.plugins.standard_form import LinearStandardFormCompiler

from llmpq_jax.planner.search.node_mip.arc_flow import (
    CONSTRAINTS,
    constraints,
    formulate,
)
from llmpq_jax.planner.search.shortest_path import NodeBounds
from llmpq_jax.schema.measurements import PHASES
from tools import write_golden_lp
from tools.write_golden_lp import (
    FOLDER,
    arc_constraint_text,
    arc_example,
    arc_objective_text,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "formulation.md"
NAMES = [add.__name__ for add in CONSTRAINTS]
NUMBERED = list(enumerate(CONSTRAINTS, start=1))


@pytest.mark.parametrize("name", constraints())
def test_a_constraint_is_its_golden_file(name):
    golden = (FOLDER / f"{name}.lp").read_text(encoding="utf-8")
    assert arc_constraint_text(constraints()[name]) == golden


def test_the_objective_is_its_golden_file():
    golden = (FOLDER / "minimize.lp").read_text(encoding="utf-8")
    assert arc_objective_text() == golden


def test_no_golden_file_is_left_over():
    folders = (FOLDER, write_golden_lp.REFEREE_FOLDER)
    on_disk = {path for folder in folders for path in folder.glob("*.lp")}
    assert on_disk == set(write_golden_lp.golden_texts())


def test_the_tool_writes_the_golden_files_again(tmp_path, monkeypatch):
    folders = {name: getattr(write_golden_lp, name) for name in FOLDERS}
    for name in FOLDERS:
        monkeypatch.setattr(write_golden_lp, name, tmp_path / name)
        (tmp_path / name).mkdir()
        (tmp_path / name / "forgotten.lp").write_text("")
    write_golden_lp.main()
    for name, folder in folders.items():
        written = {path.name: path.read_text() for path in (tmp_path / name).iterdir()}
        assert written == {path.name: path.read_text() for path in folder.iterdir()}


FOLDERS = ("FOLDER", "REFEREE_FOLDER")


@pytest.mark.parametrize(("number", "add"), NUMBERED, ids=NAMES)
def test_a_constraint_carries_the_number_of_its_row(number, add):
    name = add.__name__
    of_phases = [
        f"{phase}_{name}" for phase in PHASES if f"{phase}_{name}" in constraints()
    ]
    files = ", ".join(f"`{each}.lp`" for each in of_phases or [name])
    ends = f"| `{name}` | {files} |"
    (row,) = re.findall(rf"^\| \({number}\) .*$", DOCUMENT.read_text(), re.MULTILINE)
    assert row.endswith(ends)
    assert add.__doc__.startswith(f"({number}) ")


def test_the_table_has_no_row_too_many():
    rows = re.findall(r"^\| \((\d+)\) ", DOCUMENT.read_text(), re.MULTILINE)
    assert [int(row) for row in rows] == [number for number, _ in NUMBERED]


def test_variables_are_named_in_the_document():
    model = formulate(arc_example()).model
    for variable in model.component_objects(pyo.Var):
        assert f"`{variable.name}`" in DOCUMENT.read_text()


def test_every_constraint_is_in_the_model_that_is_solved():
    model = formulate(arc_example()).model
    assert all(model.find_component(name) is not None for name in constraints())


def test_units_of_seconds_do_not_show():
    """HiGHS's tolerances are absolute, so a plan must not depend on what a unit is."""
    given = arc_example()
    own = given.instance
    instance = replace(
        own,
        theta=own.theta * SECOND,
        devices=replace(own.devices, **in_other_unit(own.devices)),
        **in_other_unit(own),
    )
    bounds = given.node_bounds
    other = replace(
        given,
        instance=instance,
        types=replace(given.types, **in_other_unit(given.types)),
        node_bounds=NodeBounds(
            min_s=tuple(seconds * SECOND for seconds in bounds.min_s),
            max_s=tuple(seconds * SECOND for seconds in bounds.max_s),
        ),
        seconds=given.seconds * SECOND,
    )
    assert matrix(other) == pytest.approx(matrix(given))


SECOND = 1e-6


def in_other_unit(record):
    names = [field.name for field in fields(record) if field.name.endswith("_s")]
    return {name: getattr(record, name) * SECOND for name in names}


def matrix(candidates):
    model = formulate(candidates).model
    form = LinearStandardFormCompiler().write(model, mixed_form=True)
    rows = np.hstack([form.A.todense(), np.asarray(form.rhs)[:, None]])
    costs = np.append(form.c.todense(), form.c_offset)
    return np.vstack([rows, costs])
