"""`llmpq-jax sweep`: the fastest plans along one line of choices, as CSV and picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.planner_options import choice_options, request_with_choices
from llmpq_jax.cli.problem_options import planning_options
from llmpq_jax.cli.shared_options import (
    OUT_FILE,
    POSITIVE,
    omega_budget_option,
    search_options,
)

if TYPE_CHECKING:
    from llmpq_jax.planner.whatif.pareto import Axis


@click.command("sweep")
@click.option(
    "--over",
    "axis",
    type=click.Choice(["quality", "batch", "devices"]),
    required=True,
    help="Which choice is varied.",
)
@planning_options
@omega_budget_option
@choice_options
@click.option(
    "--points",
    type=POSITIVE,
    default=12,
    show_default=True,
    help="At most; those of quality are set where most is gained.",
)
@search_options(
    time_limit_s=30.0,
    gap=1e-3,
    what="Of each search; then its best plan counts, with the gap that is proven.",
)
@click.option(
    "--out",
    type=OUT_FILE,
    required=True,
    metavar="FILE.csv",
    help="The points, as CSV; the picture goes beside it, as .png.",
)
def sweep_command(
    axis: Axis,
    omega_budget: float | None,
    points: int,
    time_limit: float,
    gap: float,
    out: Path,
    **problem: Any,
) -> None:
    """Trace what latency costs in quality, batch or devices.

    Writes every point as it is found; Ctrl-C ends the sweep and keeps what is there.
    """
    if out.suffix != ".csv":
        msg = f"--out {out}: expected a name that ends in .csv; the picture takes its place with .png"
        raise click.UsageError(msg)
    if axis == "quality" and omega_budget is not None:
        msg = "a sweep of quality sets the budgets itself: expected no --omega-budget"
        raise click.UsageError(msg)
    from llmpq_jax.errors import InfeasibleError
    from llmpq_jax.planner.whatif.pareto import Sweep, SweepPoint, front
    from llmpq_jax.report.console import say, tell
    from llmpq_jax.report.pareto import point_line, write_csv, write_picture

    request = request_with_choices(**problem, omega_budget=omega_budget)
    sweep = Sweep(request=request, time_limit_s=time_limit, relative_gap=gap)
    found: list[SweepPoint] = []
    try:
        for point in sweep.points(axis, most=points):
            found.append(point)
            tell(point_line(axis, point))
            write_csv(out, axis, found, front(axis, found))
            if point.was_interrupted:
                tell("interrupted: what was found is kept")
    except KeyboardInterrupt:
        tell("interrupted: what was found is kept")
    kept = front(axis, found)
    if not kept:
        msg = "no point has a plan: `llmpq-jax solve` says what is short of what"
        raise InfeasibleError(msg)
    picture = out.with_suffix(".png")
    basis = "foretold from makers' figures" if problem["roofline"] else "predicted"
    write_picture(picture, axis, found, kept, basis=basis)
    for point in kept:
        say(point_line(axis, point))
    say(f"{len(kept)} of {len(found)} points are on the front; seconds are {basis}")
    say(f"written      {out} and {picture}")
