"""`llmpq-jax indicate`: estimates how much quality each layer loses at 8 and 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.options.option_group import (
    command,
    option,
    option_group,
    option_record,
)
from llmpq_jax.cli.options.paths import OutputFolder
from llmpq_jax.cli.options.shared import (
    FILE,
    GROUP_SIZE,
    JSON,
    MODEL,
    OUT_FILE,
    POSITIVE,
    WINDOW,
    cache_home,
    work_folder,
)
from llmpq_jax.files import is_stream

if TYPE_CHECKING:
    from llmpq_jax.schema.precision import Rounding
    from llmpq_jax.schema.sensitivity import Sensitivity
    from llmpq_jax.sensitivity.job import Method, SensitivityJob


@option_record
class EstimateOptions:
    """How losses are estimated, as typed."""

    method: Method = option(
        "hessian: second-order estimate from the rounded weights. variance: the same "
        "from their scales alone. measured: the loss with only one layer rounded. "
        "random: a control that ignores the model.",
        click.Choice(["hessian", "variance", "measured", "random"]),
        default="hessian",
    )
    rounding: Rounding = option(
        "How weights are rounded, here and when they are served.",
        click.Choice(["nearest", "clip", "learned", "gptq"]),
        default="nearest",
    )
    rounded: Path | None = option(
        "Folder for weights that are not rounded to nearest (default: next to --out).",
        OutputFolder(file_okay=False),
    )
    assignments: int = option(
        "Number of random choices of bits whose measured loss the sensitivities are "
        "fitted to.",
        POSITIVE,
        default=12,
    )
    seed: int = option("Seed of everything that is drawn.", default=0)

    def job(self, model: Path, out: Path) -> SensitivityJob:
        """Returns the job; rounded weights go next to its output by default."""
        from llmpq_jax.sensitivity.job import SensitivityJob

        is_rounded = self.rounding != "nearest"
        if is_rounded and self.rounded is None and is_stream(out):
            msg = f"--out {out} is a device or a pipe, which nothing can be written next to: expected --rounded DIR"
            raise click.UsageError(msg)
        default = out.with_name(f"{out.stem}-{self.rounding}")
        if is_rounded and self.rounded is None and default.resolve() == model.resolve():
            msg = f"rounded weights go to {default} by default, which is the folder of --model: expected another --out, or --rounded DIR"
            raise click.UsageError(msg)
        return SensitivityJob(
            method=self.method,
            rounding=self.rounding,
            rounded=(self.rounded or default) if is_rounded else None,
            num_assignments=self.assignments,
            seed=self.seed,
        )


@option_record
class TextOptions:
    """What losses are estimated on, as typed."""

    text: Path = option(
        "UTF-8 text that resembles what the model will be used on.", FILE, required=True
    )
    window: int = WINDOW
    max_tokens: int = option(
        "Number of tokens to read of the text, spread over it.", POSITIVE, default=16384
    )


@command(
    "indicate",
    option_group(
        "Model and output",
        model=MODEL,
        out=option(
            "Sensitivity file to write. An interrupted run continues where it was.",
            OUT_FILE,
            required=True,
        ),
        group_size=GROUP_SIZE,
    ),
    option_group("Text", TextOptions, "text"),
    option_group("Estimate", EstimateOptions, "estimate"),
    as_json=JSON,
)
def indicate_command(
    model: Path,
    out: Path,
    group_size: int,
    text: TextOptions,
    estimate: EstimateOptions,
    as_json: bool,
) -> None:
    """Estimate how much quality each layer loses at 8 and 4 bits.

    The model passes through memory one layer at a time, so it may be larger than memory.
    """
    import tomllib

    from llmpq_jax.report.console import print_json, print_paths, print_table
    from llmpq_jax.report.quality import sensitivity_table
    from llmpq_jax.schema.record_files import write_sensitivity
    from llmpq_jax.schema.toml import to_toml
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.indicate import estimate_sensitivity

    keep_compiled(cache_home())
    job = estimate.job(model, out)

    def show_and_write(found: Sensitivity) -> None:
        if as_json:
            print_json(tomllib.loads(to_toml(found)))
        else:
            print_table(sensitivity_table(found))
        write_sensitivity(out, found)
        if not as_json:
            print_paths(rounded=job.rounded, written=out)

    estimate_sensitivity(
        model,
        text.text,
        job,
        work=work_folder(out),
        on_found=show_and_write,
        group_size=group_size,
        window=text.window,
        max_tokens=text.max_tokens,
    )
