"""All plans that are measured: baselines, each with its joint plan, and ablations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llmpq_jax.files import write_text
from llmpq_jax.planner.baselines.compare import baselines, joint_plan
from llmpq_jax.planner.instance.candidate import evaluate
from llmpq_jax.planner.instance.problem import Problem, make_problem
from llmpq_jax.planner.instance.subproblems import all_subproblems, uniform_int8_omega
from llmpq_jax.planner.result.to_strategy import make_strategy
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Incumbent, SearchResult
from llmpq_jax.schema.record_files import write_strategy
from llmpq_jax.schema.solve_request import SolveRequest, Sources
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.planning_request import planning_request
from tools.ablations import Ablation, ablated_plan
from tools.experiments.definition import BUILD, Experiment

JOINT = "joint plan"


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """One plan of one method.

    Attributes:
        method: Name of the method: "uniform", "joint plan", "full planner", …
        baseline: Name of the baseline whose quality a joint plan keeps; None for other
            plans.
        strategy: Name of the strategy's file, which equal plans share; None if the
            method finds no plan.
        omega: Quality loss Σω.
        predicted_s: Predicted seconds of the whole batch.
        gap: Proven relative gap of a joint plan; None for other plans.
    """

    method: str
    baseline: str | None = None
    strategy: str | None = None
    omega: float | None = None
    predicted_s: float | None = None
    gap: float | None = None


def make_plans(
    experiment: Experiment, name: str, *, on_note: Callable[[str], None]
) -> list[Planned]:
    """Makes all plans of one cluster and writes each different strategy once."""
    folder = BUILD / name
    request = planning_request(
        experiment.model_path,
        experiment.workload,
        SolveRequest(
            sources=Sources(
                cluster=str(folder / "cluster.toml"),
                measurements=str(folder / "measurements.toml"),
                sensitivity=str(BUILD / "sensitivity.toml"),
            )
        ),
    )
    problem = make_problem(request)
    planned = list(_compared(problem, experiment, folder, on_note))
    if name in experiment.ablated:
        planned += _ablated(problem, experiment, folder)
    text = json.dumps([asdict(plan) for plan in planned], indent=1, ensure_ascii=False)
    write_text(folder / "plans.json", text + "\n")
    return planned


def _compared(
    problem: Problem,
    experiment: Experiment,
    folder: Path,
    on_note: Callable[[str], None],
) -> Iterator[Planned]:
    for method, found in baselines(problem):
        on_note(method)
        if found is None:
            yield Planned(method=method)
            continue
        yield written(problem, found, folder, method)
        joint = joint_plan(
            problem,
            found,
            time_limit_s=experiment.time_limit_s,
            relative_gap=experiment.gap,
        )
        assert joint.incumbent is not None, "the baseline's own plan is known"
        yield replace(
            written(problem, joint.incumbent, folder, JOINT),
            baseline=method,
            gap=joint.gap,
        )


def _ablated(
    problem: Problem, experiment: Experiment, folder: Path
) -> Iterator[Planned]:
    """Yields the full planner and ablations, all at the quality of uniform int8."""
    subproblems = all_subproblems(problem, omega_budget=uniform_int8_omega(problem))
    limit_s, gap = experiment.time_limit_s, experiment.gap
    full = search(subproblems, time_limit_s=limit_s, relative_gap=gap)
    found = full.incumbent
    yield (
        Planned(method="full planner")
        if found is None
        else replace(written(problem, found, folder, "full planner"), gap=full.gap)
    )
    methods: tuple[Ablation, ...] = ("phase-blind cut", "one bit width", "m_p = m_d")
    for method in methods:
        ablated = ablated_plan(
            method, subproblems, time_limit_s=limit_s, relative_gap=gap
        )
        yield (
            Planned(method=method)
            if ablated is None
            else written(problem, ablated, folder, method)
        )


def written(problem: Problem, found: Incumbent, folder: Path, method: str) -> Planned:
    """Writes a plan's strategy, unless an equal one exists, and returns its predictions."""
    evaluation = evaluate(found.instance, found.candidate)
    result = SearchResult(
        incumbent=found,
        bound=0.0,
        num_subproblems=1,
        is_complete=True,
        seconds=0.0,
    )
    strategy = make_strategy(
        problem, result, found, budget=None, note=None, seconds=0.0
    )
    strategy = replace(
        strategy,
        # Nothing is proven of a baseline.
        certificate=None,
    )
    name = f"{_digest(strategy)}.toml"
    if not (folder / name).exists():
        write_strategy(folder / name, strategy)
    return Planned(
        method=method,
        strategy=name,
        omega=evaluation.omega,
        predicted_s=evaluation.seconds.latency_s,
    )


def _digest(strategy: Strategy) -> str:
    """Returns a name of what is run, independent of predictions."""
    stages = [(stage.devices, stage.layers, stage.bits) for stage in strategy.stages]
    what = repr((strategy.micro_batch, strategy.precision, stages))
    return hashlib.sha256(what.encode()).hexdigest()[:12]
