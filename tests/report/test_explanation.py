"""Explanations as tables, lines and JSON, of a plan that is known."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llmpq_jax.planner import plan
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.whatif import (
    Increments,
    answer_scenarios,
    break_down,
    incumbent_from_strategy,
    list_scenarios,
    request_allowing,
)
from llmpq_jax.report.explanation import (
    answers_table,
    memory_table,
    plan_findings,
    seconds_table,
)
from llmpq_jax.report.explanation_record import explanation_json
from tests.planner.requests import request


@pytest.fixture(scope="module")
def explained():
    asked = request("slow", "fast", memory_mib=4)
    strategy = plan(asked)
    problem = make_problem(request_allowing(asked, strategy))
    found = incumbent_from_strategy(problem, strategy)
    put = list_scenarios(problem, strategy, found, Increments())
    answers = list(answer_scenarios(put, found, time_limit_s=60.0, relative_gap=1e-6))
    return break_down(problem, found, strategy), answers


def text_of(table):
    out = io.StringIO()
    Console(file=out, width=140).print(table)
    return out.getvalue()


def test_what_binds_a_stage_is_named_with_its_memory(explained):
    breakdown, answers = explained
    rows = text_of(memory_table(breakdown, answers)).splitlines()
    slowest = {phase.slowest.name for phase in breakdown.phases}
    for stage in breakdown.stages:
        (row,) = [line for line in rows if stage.devices[0] in line]
        share = stage.memory.total / stage.allowed_bytes
        assert f"{share:.0%}" in row
        assert ("prefill" in row or "decode" in row) == (stage.devices[0] in slowest)
        assert row.split("%")[1].strip().startswith("memory") == any(
            answer.is_limit and answer.brings and stage.devices[0] in answer.devices
            for answer in answers
        )


def test_the_slowest_is_marked_in_each_phase(explained):
    breakdown, _ = explained
    text = text_of(seconds_table(breakdown))
    assert text.count("slowest\n") + text.count("slowest ") >= len(breakdown.phases)
    for resource in breakdown.phases[0].resources:
        assert resource.name in text


def test_findings_say_the_plan_in_words(explained):
    breakdown, answers = explained
    text = "\n".join(plan_findings(breakdown, answers))
    assert text.startswith("prefill ")
    assert "the slowest is" in text
    assert "best         this plan" in text
    broken = plan_findings(replace(breakdown, fits=False, omega_budget=None), ())
    assert any(line.startswith("fits         no") for line in broken)
    assert any(line.endswith("without a limit") for line in broken)


def test_changes_without_gain_show_none(explained):
    _, answers = explained
    nothing = replace(answers[1], text="nothing", objective=answers[1].before)
    costs = replace(answers[1], text="costs", objective=answers[1].before * 1.5)
    infeasible = replace(answers[1], text="infeasible", objective=None, latency_s=None)
    hurried = replace(infeasible, text="hurried", ran_out_of_time=True)
    text = text_of(answers_table([answers[0], nothing, costs, infeasible, hurried]))
    rows = {row.split()[0]: row for row in text.splitlines() if row.split()}
    assert "none" in rows["nothing"]
    assert "(−50.0%)" in rows["costs"]
    assert "nothing fits" in rows["infeasible"]
    assert "none found in time" in rows["hurried"]


def test_gains_that_weigh_quality_say_so(explained):
    _, answers = explained
    assert "theta" not in text_of(answers_table(answers))
    weighed = replace(answers[0], objective=answers[0].latency_s + 0.5)
    assert "seconds + theta · Σω" in text_of(answers_table([weighed, *answers[1:]]))


def test_json_has_no_number_that_json_does_not_know(explained):
    breakdown, answers = explained
    endless = replace(answers[0], objective=None, bound=float("inf"))
    text = explanation_json(Path("s.toml"), "measured", breakdown, [endless])
    values = json.loads(text, parse_constant=pytest.fail)
    assert values["answers"][0]["bound"] is None
