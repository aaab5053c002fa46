"""`llmpq-jax sweep`: the fastest plans along one line of choices, as CSV and picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options import OUT_FILE, POSITIVE
from llmpq_jax.cli.planning import planning_options, request_as_typed

if TYPE_CHECKING:
    from llmpq_jax.solver.sweep import Axis


@click.command("sweep")
@click.option(
    "--over",
    "axis",
    type=click.Choice(["quality", "batch", "devices"]),
    required=True,
    help="Which choice is varied.",
)
@planning_options
@click.option(
    "--omega-budget",
    type=click.FloatRange(min=0),
    help="Of a sweep of batch or devices: quality loss summed over the layers may not "
    "exceed it; by default that of uniform int8.",
)
@click.option(
    "--points",
    type=POSITIVE,
    default=12,
    show_default=True,
    help="At most; those of quality are set where most is gained.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Of each search; then its best plan counts, with the gap that is proven.",
)
@click.option(
    "--gap",
    type=click.FloatRange(min=0),
    default=1e-3,
    show_default=True,
    help="Relative gap at which a plan counts as the best.",
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
    from dataclasses import replace

    from llmpq_jax.errors import InfeasibleError
    from llmpq_jax.report.console import say, tell
    from llmpq_jax.report.pareto import point_line, write_csv, write_picture
    from llmpq_jax.solver.sweep import Sweep, SweepPoint, front

    request = replace(request_as_typed(**problem), omega_budget=omega_budget)
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
