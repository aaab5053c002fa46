"""A strategy's request, with values exchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax.errors import StrategyError
from llmpq_jax.schema.record_files import read_strategy
from llmpq_jax.schema.solve_request import (
    PlannerChoices,
    QualityLimits,
    SearchLimits,
    SolveRequest,
    Sources,
)
from llmpq_jax.tasks.recorded_request import recorded_request

ROOT = Path(__file__).parents[2]
PATH = Path("plan.toml")
PLAN = read_strategy(ROOT / "strategies/tiny-two-cpu/strategy.toml")


@pytest.fixture
def asked(tmp_path):
    """A request whose files exist."""
    for name in ("cluster", "measurements", "sensitivity"):
        (tmp_path / name).touch()
    return SolveRequest(
        sources=Sources(
            cluster=str(tmp_path / "cluster"),
            measurements=str(tmp_path / "measurements"),
            sensitivity=str(tmp_path / "sensitivity"),
        ),
        choices=PlannerChoices(bits=(16, 8), tensor=(1, 2, 4, 8)),
        quality=QualityLimits(omega_budget=0.5, theta=2.0),
        search=SearchLimits(gap=0.01),
    )


def changed(request, **changes):
    sources = changes.pop("sources", {})
    strategy = replace(PLAN, request=request)
    return recorded_request(PATH, strategy, sources=sources, **changes)


def test_nothing_exchanged_is_what_was_asked_for(asked):
    assert changed(asked) == asked


def test_what_is_exchanged_leaves_the_rest(asked):
    found = changed(
        asked,
        sources={"sensitivity": "other"},
        choices={"bits": (16,)},
        quality={"omega_budget": 0.0},
    )
    assert found == replace(
        asked,
        sources=replace(asked.sources, sensitivity="other"),
        choices=replace(asked.choices, bits=(16,)),
        quality=replace(asked.quality, omega_budget=0.0),
    )


def test_measurements_and_roofline_take_each_others_place(asked):
    found = changed(asked, sources={"roofline": True})
    assert (found.sources.measurements, found.sources.roofline) == (None, True)
    back = changed(
        replace(found, sources=found.sources), sources={"measurements": "other"}
    )
    assert (back.sources.measurements, back.sources.roofline) == ("other", False)
    with pytest.raises(ValueError, match="give either --measurements FILE, which"):
        changed(asked, sources={"measurements": "other", "roofline": True})


def test_a_measured_limit_is_left_to_the_strategys_budget(asked):
    measured = QualityLimits(max_kl=0.1, validation_text="text", theta=2.0)
    found = changed(replace(asked, quality=measured), quality={"omega_budget": 1.0})
    assert found.quality == QualityLimits(omega_budget=1.0, theta=2.0)


def test_a_strategy_without_a_request_takes_sources_alone():
    sources = {"cluster": "c", "measurements": "m"}
    found = changed(None, sources=sources)
    assert found == SolveRequest(sources=Sources(cluster="c", measurements="m"))
    for given in ({}, {"cluster": "c"}, {"measurements": "m"}):
        with pytest.raises(StrategyError, match=r"^plan.toml: has no \[request\]"):
            changed(None, sources=given)


def test_a_recorded_file_that_does_not_exist_is_named(asked, tmp_path):
    (tmp_path / "sensitivity").unlink()
    with pytest.raises(StrategyError, match="name the file with --sensitivity FILE"):
        changed(asked)
    assert changed(asked, sources={"sensitivity": "other"})
