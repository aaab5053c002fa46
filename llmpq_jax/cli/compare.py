"""`llmpq-jax compare`: baselines beside the joint plan, at equal or better quality."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.problem_options import check_sources, source_options
from llmpq_jax.cli.shared_options import POSITIVE, json_option, search_options


@click.command("compare")
@source_options
@click.option("--batch", type=POSITIVE, required=True, help="Prompts served together.")
@click.option(
    "--prompt-length",
    type=POSITIVE,
    required=True,
    help="Tokens of the longest prompt.",
)
@click.option(
    "--new-tokens",
    type=POSITIVE,
    required=True,
    help="Tokens generated for each prompt at most.",
)
@search_options(
    time_limit_s=60.0, gap=1e-3, what="Of the joint plan beside each baseline."
)
@json_option
def compare_command(
    model: Path,
    cluster: Path,
    measurements: Path | None,
    roofline: bool,
    batch: int,
    prompt_length: int,
    new_tokens: int,
    sensitivity: Path | None,
    time_limit: float,
    gap: float,
    as_json: bool,
) -> None:
    """Compare the joint plan with baselines, at equal or better quality.

    Uniform cuts evenly, memory-proportional as memory is shared out; PipeEdge balances decode at one precision, with the batch over
    the devices or with its micro-batches searched; adabits minimises the loss alone;
    transfer is the paper's heuristic. Each is told the fastest plan that loses no more.
    """
    import json
    from dataclasses import asdict

    from llmpq_jax.planner.baselines.compare import compare
    from llmpq_jax.report.comparison import comparison_table
    from llmpq_jax.report.console import say, show, tell
    from llmpq_jax.schema.workload import Workload
    from llmpq_jax.tasks.planning_request import planning_request

    check_sources(measurements=measurements, roofline=roofline)
    request = planning_request(
        model,
        cluster,
        Workload(batch=batch, prompt_length=prompt_length, new_tokens=new_tokens),
        measurements=measurements,
        sensitivity=sensitivity,
    )
    rows = compare(
        request,
        time_limit_s=time_limit,
        relative_gap=gap,
        progress=lambda method: tell(f"comparing with {method} …"),
    )
    if as_json:
        say(json.dumps([asdict(row) | {"ratio": row.ratio} for row in rows], indent=2))
        return
    show(comparison_table(rows))
    source = "foretold from makers' figures" if roofline else "predicted"
    say(f"seconds are {source}; nothing was run")
