"""Options that name a planning problem, for all commands that plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.shared_options import (
    FILE,
    cluster_option,
    model_option,
    with_options,
)
from llmpq_jax.cli.workload_options import workload_as_typed, workload_options

if TYPE_CHECKING:
    from llmpq_jax.planner import PlanRequest
    from llmpq_jax.schema.workload import Workload

known_options = with_options(
    click.option(
        "--measurements",
        type=FILE,
        metavar="FILE",
        help="What `llmpq-jax profile` wrote.",
    ),
    click.option(
        "--roofline",
        is_flag=True,
        help="Instead of measurements, foretell seconds from makers' figures of the "
        "cluster's kinds of device; config.json alone will do for the model.",
    ),
    click.option(
        "--sensitivity",
        type=FILE,
        metavar="FILE",
        help="Quality loss of each layer at each precision; without it, the variance of "
        "each layer's weights is taken.",
    ),
)


source_options = with_options(model_option, cluster_option, known_options)
planning_options = with_options(source_options, workload_options)


def check_sources(*, measurements: Path | None, roofline: bool) -> None:
    """Refuses both or neither of the places that seconds come from.

    Raises:
        UsageError: They are.
    """
    if roofline == (measurements is not None):
        msg = "give either --measurements FILE or --roofline"
        raise click.UsageError(msg)


def request_as_typed(
    *,
    model: Path,
    cluster: Path,
    measurements: Path | None,
    roofline: bool,
    sensitivity: Path | None,
    workload: Workload | None = None,
    batch: int | None = None,
    prompt_length: int | None = None,
    new_tokens: int | None = None,
    prompts: Path | None = None,
    output_length_fraction: float | None = None,
    **choices: Any,
) -> PlanRequest:
    """Returns the problem that the options name, for a workload that they may name too.

    Other choices are those of `tasks.planning_request.planning_request`.

    Raises:
        UsageError: Options do not go together.
        LlmpqError: A file cannot be read, or is of another model.
    """
    from llmpq_jax.report.console import tell
    from llmpq_jax.tasks.planning_request import planning_request

    check_sources(measurements=measurements, roofline=roofline)
    try:
        if workload is None:
            workload = workload_as_typed(
                model,
                batch=batch,
                prompt_length=prompt_length,
                new_tokens=new_tokens,
                prompts=prompts,
                output_length_fraction=output_length_fraction,
            )
        return planning_request(
            model,
            cluster,
            workload,
            measurements=measurements,
            sensitivity=sensitivity,
            on_note=tell,
            **choices,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
