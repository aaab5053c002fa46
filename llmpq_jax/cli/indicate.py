"""`llmpq-jax indicate`: estimates how much quality each layer loses at 8 and 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.options.option_group import OptionGroup, command
from llmpq_jax.cli.options.shared import (
    GROUP_SIZE,
    JSON,
    MODEL,
    OUT_FILE,
    POSITIVE,
    TEXT,
    WINDOW,
    cache_home,
)

if TYPE_CHECKING:
    from llmpq_jax.schema.precision import Rounding
    from llmpq_jax.sensitivity.job import Method, SensitivityJob


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateOptions:
    """How losses are estimated, as typed; the options' help says what each means."""

    method: Method
    rounding: Rounding
    rounded: Path | None
    assignments: int
    seed: int

    def job(self, out: Path) -> SensitivityJob:
        """Returns the job; rounded weights go next to its output by default."""
        from llmpq_jax.sensitivity.job import SensitivityJob

        default = out.with_name(f"{out.stem}-{self.rounding}")
        return SensitivityJob(
            method=self.method,
            rounding=self.rounding,
            rounded=None if self.rounding == "nearest" else self.rounded or default,
            num_assignments=self.assignments,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOptions:
    """What losses are estimated on, as typed; the options' help says what each means."""

    text: Path
    window: int
    max_tokens: int


@command(
    "indicate",
    OptionGroup(
        title="Model and output",
        options=(
            MODEL,
            click.Option(
                ["--out"],
                type=OUT_FILE,
                required=True,
                metavar="FILE",
                help="Sensitivity file to write. An interrupted run continues where it "
                "was.",
            ),
            GROUP_SIZE,
        ),
    ),
    OptionGroup(
        title="Text",
        record=TextOptions,
        parameter="text",
        options=(
            TEXT,
            WINDOW,
            click.Option(
                ["--max-tokens"],
                type=POSITIVE,
                default=16384,
                show_default=True,
                help="Number of tokens to read of the text, spread over it.",
            ),
        ),
    ),
    OptionGroup(
        title="Estimate",
        record=EstimateOptions,
        parameter="estimate",
        options=(
            click.Option(
                ["--method"],
                type=click.Choice(["hessian", "variance", "measured", "random"]),
                default="hessian",
                show_default=True,
                help="hessian: second-order estimate from the rounded weights. variance: "
                "the same from their scales alone. measured: the loss with only one "
                "layer rounded. random: a control that ignores the model.",
            ),
            click.Option(
                ["--rounding"],
                type=click.Choice(["nearest", "clip", "learned", "gptq"]),
                default="nearest",
                show_default=True,
                help="How weights are rounded, here and when they are served.",
            ),
            click.Option(
                ["--rounded"],
                type=click.Path(path_type=Path, file_okay=False),
                metavar="DIR",
                help="Folder for weights that are not rounded to nearest (default: next "
                "to --out).",
            ),
            click.Option(
                ["--assignments"],
                type=POSITIVE,
                default=12,
                show_default=True,
                help="Number of random choices of bits whose measured loss the "
                "sensitivities are fitted to.",
            ),
            click.Option(
                ["--seed"],
                type=int,
                default=0,
                show_default=True,
                help="Seed of everything that is drawn.",
            ),
        ),
    ),
    JSON,
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
    import json
    import tomllib

    from llmpq_jax.report.console import print_line, print_table
    from llmpq_jax.report.quality import sensitivity_table
    from llmpq_jax.schema.sensitivity_file import write_sensitivity
    from llmpq_jax.schema.toml import to_toml
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.indicate import estimate_sensitivity

    keep_compiled(cache_home())
    job = estimate.job(out)
    sensitivity = estimate_sensitivity(
        model,
        text.text,
        job,
        work=out.with_name(f".{out.name}.work"),
        group_size=group_size,
        window=text.window,
        max_tokens=text.max_tokens,
    )
    write_sensitivity(out, sensitivity)
    if as_json:
        print_line(json.dumps(tomllib.loads(to_toml(sensitivity)), indent=2))
        return
    print_table(sensitivity_table(sensitivity))
    if job.rounded is not None:
        print_line(f"rounded      {job.rounded}")
    print_line(f"written      {out}")
