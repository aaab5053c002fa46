"""Options that say what a plan is made from, and what is to be served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.options.option_group import OptionGroup
from llmpq_jax.cli.options.shared import FILE, MODEL, POSITIVE
from llmpq_jax.schema.solve_request import SolveRequest, Sources
from llmpq_jax.schema.workload import Workload

if TYPE_CHECKING:
    from llmpq_jax.planner import PlanRequest

SOURCES = OptionGroup(
    title="Model, devices and measurements",
    record=Sources,
    parameter="sources",
    options=(
        MODEL,
        click.Option(
            ["--cluster"],
            required=True,
            metavar="FILE",
            help="Cluster file with the devices, their memory and links.",
        ),
        click.Option(
            ["--measurements"],
            metavar="FILE",
            help="Measurements file from `llmpq-jax profile`.",
        ),
        click.Option(
            ["--roofline"],
            is_flag=True,
            help="Predict seconds from data-sheet figures of the devices instead of "
            "measurements. The model then needs no more than its config.json.",
        ),
        click.Option(
            ["--sensitivity"],
            metavar="FILE",
            help="Sensitivity file from `llmpq-jax indicate` (default: the variance of "
            "each layer's weights).",
        ),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadOptions:
    """Options that describe a workload, as typed; their help says what each means."""

    batch: int | None = None
    prompt_length: int | None = None
    new_tokens: int | None = None
    prompts: Path | None = None
    output_length_fraction: float | None = None

    def workload(self, model: Path) -> Workload:
        """Returns the workload, reading the prompts if they are a file.

        Raises:
            UsageError: Options are missing, or do not go together.
            LlmpqError: The prompts cannot be read.
        """
        from llmpq_jax.batch.prompt_lengths import workload_of_prompts

        if self.prompts is not None:
            if self.prompt_length is not None:
                msg = "--prompts says how long prompts are: expected no --prompt-length with it"
                raise click.UsageError(msg)
            return workload_of_prompts(
                model,
                self.prompts,
                batch=self.batch,
                new_tokens=self.new_tokens,
                output_length_fraction=self.output_length_fraction,
            )
        if self.batch is None or self.prompt_length is None or self.new_tokens is None:
            given = {
                "--batch": self.batch,
                "--prompt-length": self.prompt_length,
                "--new-tokens": self.new_tokens,
            }
            missing = [repr(name) for name, value in given.items() if value is None]
            options = "option" if len(missing) == 1 else "options"
            msg = f"Missing {options} {', '.join(missing)}: expected --batch, --prompt-length and --new-tokens, or --prompts FILE"
            raise click.UsageError(msg)
        return Workload(
            batch=self.batch,
            prompt_length=self.prompt_length,
            new_tokens=self.new_tokens,
            output_length_fraction=self.output_length_fraction,
        )


WORKLOAD = OptionGroup(
    title="Workload",
    record=WorkloadOptions,
    parameter="workload",
    options=(
        click.Option(
            ["--batch"],
            type=POSITIVE,
            help="Number of prompts that are served at the same time (default with "
            "--prompts: all).",
        ),
        click.Option(
            ["--prompt-length"], type=POSITIVE, help="Tokens of the longest prompt."
        ),
        click.Option(
            ["--new-tokens"],
            type=POSITIVE,
            help="Maximum number of tokens that are generated for each prompt; with "
            "--prompts, for each prompt that does not set its own.",
        ),
        click.Option(
            ["--prompts"],
            type=FILE,
            metavar="FILE",
            help="Plan for the prompts of this file, in a format that `generate` reads, "
            "instead of for one length. Memory is planned for the longest prompt, time "
            "for all of them.",
        ),
        click.Option(
            ["--output-length-fraction"],
            type=click.FloatRange(min=0, max=1, min_open=True),
            metavar="FRACTION",
            help="Expected share of its new tokens that a prompt uses (gamma in the "
            "paper). Time is planned for this share, memory for all new tokens.",
        ),
    ),
)


def fixed_workload(default: Workload | None = None) -> OptionGroup:
    """Makes the options of a workload whose prompts all have one length.

    Args:
        default: Workload that is taken for options that are not typed; None if all must
            be typed.
    """

    def size(name: str, help: str) -> click.Option:
        return click.Option(
            [f"--{name.replace('_', '-')}"],
            type=POSITIVE,
            required=default is None,
            default=getattr(default, name, None),
            show_default=default is not None,
            help=help,
        )

    return OptionGroup(
        title="Workload",
        record=Workload,
        parameter="workload",
        options=(
            size("batch", "Number of prompts that are served at the same time."),
            size("prompt_length", "Tokens of the longest prompt."),
            size("new_tokens", "Maximum number of tokens generated for each prompt."),
        ),
    )


def read_problem(model: Path, workload: Workload, request: SolveRequest) -> PlanRequest:
    """Reads the files of a request, with remarks on stderr.

    Raises:
        UsageError: A choice does not suit the cluster, the model or the workload.
        LlmpqError: A file cannot be read, or is of another model.
    """
    from llmpq_jax.report.console import log
    from llmpq_jax.tasks.planning_request import planning_request

    try:
        return planning_request(model, workload, request, on_note=log)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
