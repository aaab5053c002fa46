"""`llmpq-jax solve`: from cluster, measurements and sensitivities to a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options.option_group import command, option, option_group
from llmpq_jax.cli.options.paths import OutputFile
from llmpq_jax.cli.options.planner import CHOICES, QUALITY, search_limits
from llmpq_jax.cli.options.problem import (
    ONLINE,
    SOURCES,
    WORKLOAD,
    OnlineOptions,
    WorkloadOptions,
    read_problem,
)
from llmpq_jax.cli.options.shared import JSON, OUT_FILE, cache_home, work_folder
from llmpq_jax.schema.solve_request import (
    PlannerChoices,
    QualityLimits,
    SearchLimits,
    SolveRequest,
    Sources,
)

if TYPE_CHECKING:
    from llmpq_jax.planner import PlanRequest
    from llmpq_jax.schema.strategy import Strategy


@command(
    "solve",
    SOURCES,
    WORKLOAD,
    ONLINE,
    CHOICES,
    QUALITY,
    search_limits(
        time_limit_s=60.0,
        gap=1e-4,
        help="Time after which the best plan so far is written, with its proven gap.",
    ),
    option_group(
        "Output",
        out=option("Strategy file to write.", OUT_FILE, required=True),
        validation_record=option(
            "Plans that were evaluated under measured limits, as JSON lines, read and "
            "added to. The fastest that keeps the limit is taken.",
            OutputFile(is_read=True),
        ),
        as_json=JSON,
    ),
)
def solve_command(
    model: Path,
    sources: Sources,
    workload: WorkloadOptions,
    online: OnlineOptions,
    choices: PlannerChoices,
    quality: QualityLimits,
    search: SearchLimits,
    out: Path,
    validation_record: Path | None,
    as_json: bool,
) -> None:
    """Plan cuts, bits and micro-batches together.

    The plan is the fastest that fits the devices' memory and the limit on the loss of
    quality, by default that of a model wholly at 8 bits. How far any other plan could be
    ahead is proven and shown.

    With --arrivals it is the one with the least mean time of a request among those whose
    times to first token and per output token keep the limits, by a simulation.
    """
    try:
        load = online.load(workload)
        request = SolveRequest(
            sources=sources,
            choices=choices,
            quality=quality,
            search=search,
            online=load,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    from llmpq_jax.report import console
    from llmpq_jax.report.lines import plan_lines
    from llmpq_jax.report.tables import plan_table
    from llmpq_jax.schema.record_files import write_strategy
    from llmpq_jax.tasks.online_search import load_workload
    from llmpq_jax.tasks.solve import solve

    planned = workload.workload(model) if load is None else load_workload(load)
    problem = read_problem(model, planned, request)
    if quality.is_measured:
        from llmpq_jax.tasks.compile_cache import keep_compiled

        keep_compiled(cache_home())
    strategy = solve(
        problem,
        request,
        command=command_as_typed(),
        work=work_folder(out),
        record=validation_record,
    )
    if as_json:
        console.print_json(_values(strategy, problem, request, out))
        write_strategy(out, strategy)
        return
    console.print_table(plan_table(strategy))
    for line in plan_lines(strategy, int8_omega=_int8_omega(strategy, problem)):
        console.print_line(line)
    if idle := _idle_devices(strategy, problem):
        console.print_line(f"idle         {', '.join(idle)}")
    write_strategy(out, strategy)
    console.print_paths(written=out)
    # Last, so that whoever does not wait for it has the plan.
    _print_around(problem, strategy, request)


def _values(
    strategy: Strategy, problem: PlanRequest, request: SolveRequest, out: Path
) -> dict[str, Any]:
    """Returns a plan and what is around it, for JSON."""
    import tomllib

    from llmpq_jax.schema.toml import to_toml
    from llmpq_jax.tasks.solve import neighbours

    return {
        "out": str(out),
        "strategy": tomllib.loads(to_toml(strategy)),
        "omega_of_uniform_int8": _int8_omega(strategy, problem),
        "idle": _idle_devices(strategy, problem),
        "around": _losses(neighbours(problem, strategy, request)),
    }


def _print_around(
    problem: PlanRequest, strategy: Strategy, request: SolveRequest
) -> None:
    """Shows plans of less and of more loss, if there are any and time is left."""
    from llmpq_jax.report.console import print_table
    from llmpq_jax.report.tables import neighbours_table
    from llmpq_jax.tasks.solve import neighbours

    around = neighbours(problem, strategy, request)
    if len(around) > 1:
        print_table(neighbours_table(around, strategy))


def _losses(plans: Sequence[Strategy]) -> list[dict[str, Any]]:
    """Returns what plans lose and bring, for JSON."""
    from dataclasses import asdict

    return [
        {
            "omega": plan.quality and plan.quality.omega,
            "bits": plan.bits,
            "predicted": plan.predicted and asdict(plan.predicted),
        }
        for plan in plans
    ]


def _int8_omega(strategy: Strategy, problem: PlanRequest) -> float:
    """Returns the Σω of all layers at 8 bits, with the strategy's head and cache."""
    from llmpq_jax.costmodel.quality import total_omega

    return total_omega(
        problem.sensitivity,
        (8,) * problem.architecture.num_layers,
        head_bits=strategy.precision.head_bits,
        kv_bits=strategy.precision.kv_bits,
    )


def _idle_devices(strategy: Strategy, problem: PlanRequest) -> list[str]:
    used = {name for stage in strategy.stages for name in stage.devices}
    names = [node_device.name for node_device in problem.cluster.node_devices]
    return [name for name in names if name not in used]
