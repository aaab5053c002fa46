from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from llmpq_jax.report.picture_style import BITS_COLOURS
from tests.report import samples
from tools.write_plan_picture import (
    description,
    embedded_description,
    main,
    plan_figure,
    write_plan_picture,
)


def test_the_picture_in_docs_shows_the_committed_strategy(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_cell_has_the_colour_of_its_bits():
    plan = samples.strategy()
    (axes,) = plan_figure(plan).axes
    cells = [cell for cell in axes.patches if isinstance(cell, Rectangle)]
    cells.sort(key=Rectangle.get_x)
    colours = [to_hex(cell.get_facecolor()) for cell in cells]
    assert colours == [BITS_COLOURS[bits] for bits in plan.bits]


def test_the_same_plan_gives_the_same_file(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        write_plan_picture(path, samples.strategy())
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (0, 5), "bits": (16, 8, 8, 4, 4)},
        {"layers": (0, 4), "bits": (16, 8, 8, 8)},
        {"device": "node0/cpu:9"},
        {"predicted": None},
    ],
)
def test_whatever_is_drawn_is_in_the_description(tmp_path, changes):
    plan = samples.strategy()
    path = tmp_path / "plan.png"
    write_plan_picture(path, plan)
    assert embedded_description(path) == description(plan)
    first = replace(plan.stages[0], **changes)
    stages = (first, *plan.stages[1:])
    if first.layers != (0, 5):
        second = replace(plan.stages[1], layers=(4, 6), bits=(8, 8))
        stages = (first, second, *plan.stages[2:])
    assert description(replace(plan, stages=stages)) != embedded_description(path)


def test_a_picture_of_another_plan_is_out_of_date(tmp_path, capsys):
    path = tmp_path / "plan.png"
    assert main(["--check"], path=path) == 1
    write_plan_picture(path, samples.strategy())
    assert main(["--check"], path=path) == 1
    assert "plan.png is out of date: run python -m" in capsys.readouterr().err
    assert main([], path=path) == 0
    assert main(["--check"], path=path) == 0


def test_other_arguments_are_refused(capsys):
    assert main(["--chek"]) == 2
    assert "usage: python -m tools.write_plan_picture" in capsys.readouterr().err
