"""Options that say what is to be served, for all commands that plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.shared_options import FILE, POSITIVE, with_options

if TYPE_CHECKING:
    from llmpq_jax.schema.workload import Workload

workload_options = with_options(
    click.option(
        "--batch",
        type=POSITIVE,
        help="Prompts served together; with --prompts by default all.",
    ),
    click.option(
        "--prompt-length", type=POSITIVE, help="Tokens of the longest prompt."
    ),
    click.option(
        "--new-tokens",
        type=POSITIVE,
        help="Tokens generated for each prompt at most; with --prompts, for each that "
        "does not say.",
    ),
    click.option(
        "--prompts",
        type=FILE,
        metavar="FILE",
        help="Instead of one length, plan for these prompts, a file as `generate` reads "
        "it: memory holds the longest, time is for them all.",
    ),
    click.option(
        "--output-length-fraction",
        type=click.FloatRange(min=0, max=1, min_open=True),
        metavar="FRACTION",
        help="Prompts are expected to want this share of their new tokens (the paper's "
        "gamma): time is for that share, memory for all of them.",
    ),
)


def workload_as_typed(
    model: Path,
    *,
    batch: int | None,
    prompt_length: int | None,
    new_tokens: int | None,
    prompts: Path | None,
    output_length_fraction: float | None,
) -> Workload:
    """Returns what the options say, or says which is missing.

    Raises:
        UsageError: Options are missing, or do not go together.
        LlmpqError: The prompts cannot be read.
    """
    from llmpq_jax.batch.prompt_lengths import workload_of_prompts
    from llmpq_jax.schema.workload import Workload

    if prompts is not None:
        if prompt_length is not None:
            msg = "--prompts says how long prompts are: expected no --prompt-length beside it"
            raise click.UsageError(msg)
        return workload_of_prompts(
            model,
            prompts,
            batch=batch,
            new_tokens=new_tokens,
            output_length_fraction=output_length_fraction,
        )
    if batch is None or prompt_length is None or new_tokens is None:
        given = {
            "--batch": batch,
            "--prompt-length": prompt_length,
            "--new-tokens": new_tokens,
        }
        missing = [repr(name) for name, value in given.items() if value is None]
        options = "option" if len(missing) == 1 else "options"
        msg = f"Missing {options} {', '.join(missing)}: expected --batch, --prompt-length and --new-tokens, or --prompts FILE"
        raise click.UsageError(msg)
    return Workload(
        batch=batch,
        prompt_length=prompt_length,
        new_tokens=new_tokens,
        output_length_fraction=output_length_fraction,
    )
