"""Pictures of sweeps, whose points are all in view and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Annotation

from llmpq_jax.costmodel.quality import total_omega
from llmpq_jax.planner.whatif.pareto import Sweep
from llmpq_jax.planner.whatif.sweep_point import Axis, SweepPoint, front
from llmpq_jax.report.pareto import point_line, sweep_figure
from tests.planner.requests import request


@pytest.fixture(scope="module")
def asked():
    found = request("slow", "fast", memory_mib=5)
    sensitivity = replace(found.sensitivity, unit="nats per token")
    return replace(found, sensitivity=sensitivity)


def points(asked, axis: Axis) -> list[SweepPoint]:
    sweep = Sweep(request=asked, time_limit_s=30.0, relative_gap=1e-3)
    return list(sweep.points(axis, max_points=4))


@pytest.mark.parametrize("axis", ["quality", "batch", "devices"])
def test_all_points_are_inside_the_axes_and_the_problem_is_named(asked, axis: Axis):
    found = points(asked, axis)
    figure = sweep_figure(
        axis, found, front(axis, found), request=asked, basis="predicted"
    )
    for panel in figure.axes:
        left, right = panel.get_xlim()
        bottom, top = panel.get_ylim()
        drawn = np.asarray(panel.lines[0].get_xydata())
        assert len(drawn)
        for across, up in drawn:
            assert left < across < right
            # Half a marker of 7 points is 1 % of the axes.
            assert bottom <= up <= top - 0.02 * (top - bottom)
    title = figure.axes[0].get_title()
    assert title.startswith("made-up on room: ")
    assert "of 48 tokens, 16 new ones" in title


def test_the_axis_of_losses_has_a_unit_and_the_losses_of_one_precision(asked):
    found = points(asked, "quality")
    figure = sweep_figure(
        "quality", found, front("quality", found), request=asked, basis="predicted"
    )
    (panel,) = figure.axes
    assert "estimated loss of quality Σω" in panel.get_xlabel()
    assert "(nats per token)" in panel.get_xlabel()
    marks = {
        text.get_text().strip(): text.xy[0]
        for text in panel.texts
        if isinstance(text, Annotation)
    }
    layers = asked.architecture.num_layers
    assert marks == {
        f"all layers at {bits} bits": total_omega(asked.sensitivity, (bits,) * layers)
        for bits in (8, 4)
    }


def test_a_point_without_a_plan_says_so():
    assert point_line("batch", SweepPoint(setting=8, strategy=None)).split() == [
        *("batch", "8", "no", "plan")
    ]
