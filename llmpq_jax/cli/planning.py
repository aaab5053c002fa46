"""Options that name a planning problem, for commands that solve it more than once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options import FILE, cluster_option, model_option
from llmpq_jax.cli.workload import workload_as_typed, workload_options

if TYPE_CHECKING:
    from llmpq_jax.solver import PlanRequest

_OPTIONS = (
    model_option,
    cluster_option,
    click.option(
        "--measurements",
        type=FILE,
        metavar="FILE",
        help="What `llmpq-jax profile` wrote.",
    ),
    click.option(
        "--roofline",
        is_flag=True,
        help="Instead, foretell seconds from makers' figures.",
    ),
    workload_options,
    click.option(
        "--sensitivity",
        type=FILE,
        metavar="FILE",
        help="Quality loss of each layer at each precision, as for `solve`.",
    ),
)


def planning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def request_as_typed(
    *,
    model: Path,
    cluster: Path,
    measurements: Path | None,
    roofline: bool,
    batch: int | None,
    prompt_length: int | None,
    new_tokens: int | None,
    prompts: Path | None,
    output_length_fraction: float | None,
    sensitivity: Path | None,
) -> PlanRequest:
    """Returns the problem that the options name.

    Raises:
        UsageError: Options do not go together.
        LlmpqError: A file cannot be read, or is of another model.
    """
    from llmpq_jax.report.console import tell
    from llmpq_jax.workflow.planning import planning_request

    if roofline == (measurements is not None):
        msg = "give either --measurements FILE or --roofline"
        raise click.UsageError(msg)
    try:
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
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
