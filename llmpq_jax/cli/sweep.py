"""`llmpq-jax sweep`: the fastest plans along one axis of choices, as CSV and picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.options.option_group import command, option, option_group
from llmpq_jax.cli.options.planner import CHOICES, QUALITY, search_limits
from llmpq_jax.cli.options.problem import (
    SOURCES,
    WORKLOAD,
    WorkloadOptions,
    read_problem,
)
from llmpq_jax.cli.options.shared import OUT_FILE, POSITIVE
from llmpq_jax.schema.solve_request import (
    PlannerChoices,
    QualityLimits,
    SearchLimits,
    SolveRequest,
    Sources,
)

if TYPE_CHECKING:
    from llmpq_jax.planner.whatif.sweep_point import Axis


@command(
    "sweep",
    option_group(
        "Points and output",
        axis=option(
            "What is varied from point to point.",
            click.Choice(["quality", "batch", "devices"]),
            name="--over",
            required=True,
        ),
        points=option(
            "Maximum number of points. Over quality, they are set where they gain most.",
            POSITIVE,
            default=12,
        ),
        out=option(
            "CSV file to write; the picture is written next to it, as .png.",
            OUT_FILE,
            required=True,
            metavar="FILE.csv",
        ),
    ),
    SOURCES,
    WORKLOAD,
    CHOICES,
    QUALITY.only("omega_budget"),
    search_limits(
        time_limit_s=30.0,
        gap=1e-3,
        help="Time for each search, after which its best plan is taken, with its "
        "proven gap.",
    ),
)
def sweep_command(
    axis: Axis,
    points: int,
    out: Path,
    model: Path,
    sources: Sources,
    workload: WorkloadOptions,
    choices: PlannerChoices,
    quality: QualityLimits,
    search: SearchLimits,
) -> None:
    """Trace what latency costs in quality, batch or devices.

    Every point is written as it is found. Ctrl-C ends the sweep and keeps them.
    """
    if out.suffix != ".csv":
        msg = f"--out {out}: expected a name that ends in .csv; the picture has the same name with .png"
        raise click.UsageError(msg)
    if axis == "quality" and quality.omega_budget is not None:
        msg = "a sweep of quality sets the budgets itself: expected no --omega-budget"
        raise click.UsageError(msg)
    from llmpq_jax.errors import InfeasibleError, TimeLimitError
    from llmpq_jax.planner.whatif.pareto import Sweep
    from llmpq_jax.planner.whatif.sweep_point import SweepPoint, front
    from llmpq_jax.report.console import log, print_line
    from llmpq_jax.report.pareto import point_line, write_csv, write_picture

    request = SolveRequest(sources=sources, choices=choices, quality=quality)
    sweep = Sweep(
        request=read_problem(model, workload.workload(model), request),
        time_limit_s=search.time_limit_s,
        relative_gap=search.gap,
    )
    found: list[SweepPoint] = []
    try:
        for point in sweep.points(axis, max_points=points):
            found.append(point)
            log(point_line(axis, point))
            write_csv(out, axis, found, front(axis, found))
            if point.was_interrupted:
                log("interrupted: the points so far are kept")
    except KeyboardInterrupt:
        log("interrupted: the points so far are kept")
    kept = front(axis, found)
    if not kept and any(point.ran_out_of_time for point in found):
        msg = f"no plan was found in the {search.time_limit_s:g} s of each point, and it is not proven that there is none: expected more time; raise --time-limit"
        raise TimeLimitError(msg)
    if not kept:
        msg = "no point has a plan: `llmpq-jax solve` says what is short of what"
        raise InfeasibleError(msg)
    picture = out.with_suffix(".png")
    basis = "predicted from data-sheet figures" if sources.roofline else "predicted"
    write_picture(picture, axis, found, kept, basis=basis)
    for point in kept:
        print_line(point_line(axis, point))
    print_line(
        f"{len(kept)} of {len(found)} points are on the front; seconds are {basis}"
    )
    print_line(f"written      {out} and {picture}")
