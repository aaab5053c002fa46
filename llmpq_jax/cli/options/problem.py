"""Options that say what a plan is made from, and what is to be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.options.option_group import (
    OptionGroup,
    flag,
    option,
    option_group,
    option_record,
)
from llmpq_jax.cli.options.paths import InputPath, named_by_sensitivity
from llmpq_jax.cli.options.shared import (
    ABOVE_ZERO,
    FILE,
    FILE_TEXT,
    MODEL,
    POSITIVE,
)
from llmpq_jax.schema.online_load import OnlineLoad
from llmpq_jax.schema.solve_request import SolveRequest, Sources
from llmpq_jax.schema.workload import Workload

if TYPE_CHECKING:
    from llmpq_jax.planner import PlanRequest

SOURCES = option_group(
    "Model, devices and measurements",
    Sources,
    "sources",
    model=MODEL,
    cluster=option(
        "Cluster file with the devices, their memory and links.",
        FILE_TEXT,
        required=True,
    ),
    measurements=option("Measurements file from `llmpq-jax profile`.", FILE_TEXT),
    roofline=flag(
        "Predict seconds from data-sheet figures of the devices instead of "
        "measurements. The model then needs no more than its config.json."
    ),
    sensitivity=option(
        "Sensitivity file from `llmpq-jax indicate` (default: the variance of each "
        "layer's weights).",
        InputPath(others=named_by_sensitivity, path_type=str),
    ),
)


@option_record
class WorkloadOptions:
    """Options that describe a workload, as typed."""

    batch: int | None = option(
        "Number of prompts that are served at the same time (default with --prompts: "
        "all).",
        POSITIVE,
    )
    prompt_length: int | None = option("Tokens of the longest prompt.", POSITIVE)
    new_tokens: int | None = option(
        "Maximum number of tokens that are generated for each prompt; with --prompts, "
        "for each prompt that does not set its own.",
        POSITIVE,
    )
    prompts: Path | None = option(
        "Plan for the prompts of this file, in a format that `generate` reads, instead "
        "of for one length. Memory is planned for the longest prompt, time for all of "
        "them.",
        FILE,
    )
    output_length_fraction: float | None = option(
        "Expected share of its new tokens that a prompt uses (gamma in the paper). Time "
        "is planned for this share, memory for all new tokens.",
        click.FloatRange(min=0, max=1, min_open=True),
        metavar="FRACTION",
    )

    def workload(self, model: Path) -> Workload:
        """Returns the workload, reading the prompts if they are a file."""
        from llmpq_jax.batch.prompt_file import workload_of_prompts
        from llmpq_jax.report.console import log, progress_bar

        if self.prompts is not None:
            if self.prompt_length is not None:
                msg = "--prompts says how long prompts are: expected no --prompt-length with it"
                raise click.UsageError(msg)
            with progress_bar("tokenising", None, unit="prompts") as advance:
                return workload_of_prompts(
                    model,
                    self.prompts,
                    batch=self.batch,
                    new_tokens=self.new_tokens,
                    output_length_fraction=self.output_length_fraction,
                    on_note=log,
                    on_prompt=lambda: advance(1),
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
        try:
            return Workload(
                batch=self.batch,
                prompt_length=self.prompt_length,
                new_tokens=self.new_tokens,
                output_length_fraction=self.output_length_fraction,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error


WORKLOAD = option_group("Workload", WorkloadOptions, "workload")


@option_record
class OnlineOptions:
    """Options of requests that arrive at random, as typed."""

    arrivals: float | None = option(
        "Plan for requests that arrive at random, as a server's do, at this mean rate per "
        "second, instead of for a batch. --batch then is the number of requests that are "
        "served at the same time (default: the planner chooses).",
        ABOVE_ZERO,
        metavar="RATE",
    )
    lengths: str | None = option(
        'JSON file with the lengths of their prompts and replies in tokens, {"pairs": '
        "[[32, 518], …]}, from which each request draws one.",
        FILE_TEXT,
    )
    max_ttft: float | None = option(
        "Maximum time to first token, in seconds.", ABOVE_ZERO, metavar="SECONDS"
    )
    max_tpot: float | None = option(
        "Maximum time per output token after the first, in seconds.",
        ABOVE_ZERO,
        metavar="SECONDS",
    )
    percentile: float = option(
        "Percentage of the requests that keep each of these limits.",
        click.FloatRange(min=1, max=99.9),
        default=95.0,
    )

    def load(self, workload: WorkloadOptions) -> OnlineLoad | None:
        """Returns the load, or None if the plan is for a batch."""
        if self.arrivals is None or self.lengths is None:
            typed = {
                "--arrivals": self.arrivals,
                "--lengths": self.lengths,
                "--max-ttft": self.max_ttft,
                "--max-tpot": self.max_tpot,
            }
            given = [name for name, value in typed.items() if value is not None]
            if not given:
                return None
            msg = f"{given[0]} alone: expected --arrivals RATE and --lengths FILE together"
            raise click.UsageError(msg)
        others = {
            "--prompt-length": workload.prompt_length,
            "--new-tokens": workload.new_tokens,
            "--prompts": workload.prompts,
            "--output-length-fraction": workload.output_length_fraction,
        }
        for name, value in others.items():
            if value is not None:
                msg = f"--lengths says how long prompts and replies are: expected no {name} with it"
                raise click.UsageError(msg)
        return OnlineLoad(
            arrivals_per_s=self.arrivals,
            lengths=self.lengths,
            percentile=self.percentile,
            max_ttft_s=self.max_ttft,
            max_tpot_s=self.max_tpot,
            batch=workload.batch,
        )


ONLINE = option_group("Requests that arrive at random", OnlineOptions, "online")


def fixed_workload(default: Workload | None = None) -> OptionGroup:
    """Makes the options of a workload whose prompts all have one length.

    All must be typed, unless there is a default.
    """

    def size(name: str, help: str) -> Any:
        if default is None:
            return option(help, POSITIVE, required=True)
        return option(help, POSITIVE, default=getattr(default, name))

    return option_group(
        "Workload",
        Workload,
        "workload",
        batch=size("batch", "Number of prompts that are served at the same time."),
        prompt_length=size("prompt_length", "Tokens of the longest prompt."),
        new_tokens=size(
            "new_tokens", "Maximum number of tokens generated for each prompt."
        ),
    )


def read_problem(model: Path, workload: Workload, request: SolveRequest) -> PlanRequest:
    """Reads the files of a request, with remarks on stderr.

    Raises:
        UsageError: A choice does not suit the cluster, the model or the workload.
        LlmpqError: A file cannot be read, or is of another model.
    """
    from llmpq_jax.checkpoint.tokenizer import missing_sentencepiece
    from llmpq_jax.report.console import log
    from llmpq_jax.tasks.planning_request import planning_request

    try:
        problem = planning_request(model, workload, request, on_note=log)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # The plan may be served elsewhere.
    if (missing := missing_sentencepiece(model)) is not None:
        log(missing)
    return problem
