"""Options of `generate`: prompts and results, sampling, and records of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.options.option_group import OptionGroup
from llmpq_jax.cli.options.shared import FILE, OUT_FILE, POSITIVE, STRATEGY

if TYPE_CHECKING:
    from llmpq_jax.batch.prompt import PromptDefaults


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchOptions:
    """Prompts and results, as typed; the options' help says what each means."""

    texts: tuple[str, ...]
    prompts_path: Path | None
    out: Path | None
    overwrite: bool
    resume: bool

    def __post_init__(self) -> None:
        if bool(self.texts) == (self.prompts_path is not None):
            msg = "expected either --prompt (once or more) or --prompts"
            raise ValueError(msg)
        if self.resume and (
            self.out is None or self.prompts_path is None or self.overwrite
        ):
            msg = "--resume continues the results of a file: expected --prompts and --out with it, and no --overwrite"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """How tokens are drawn, as typed; the options' help says what each means."""

    max_new_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: tuple[str, ...]
    chat: bool
    ignore_eos: bool

    @property
    def defaults(self) -> PromptDefaults:
        """Options of prompts whose lines leave them open."""
        from llmpq_jax.batch.prompt import PromptDefaults
        from llmpq_jax.runtime.request import Sampling

        return PromptDefaults(
            max_new_tokens=self.max_new_tokens,
            sampling=Sampling(
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                seed=self.seed,
            ),
            stop=self.stop,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordOptions:
    """What is written about the run, as typed; the options' help says what each means."""

    record: Path | None
    trace: Path | None
    timeline: Path | None

    def __post_init__(self) -> None:
        timeline = self.timeline
        if timeline is not None and timeline.suffix not in {".png", ".svg"}:
            msg = f"--timeline {timeline}: expected a name that ends in .png or .svg"
            raise ValueError(msg)


BATCH = OptionGroup(
    title="Prompts and results",
    record=BatchOptions,
    parameter="batch",
    options=(
        STRATEGY,
        click.Option(
            ["--prompt", "texts"],
            multiple=True,
            metavar="TEXT",
            help="Prompt to continue. May be repeated.",
        ),
        click.Option(
            ["--prompts", "prompts_path"],
            type=FILE,
            metavar="FILE",
            help="File of prompts: .txt with one prompt per line, or .jsonl with "
            '{"prompt": "…"} and optionally custom_id, max_new_tokens, temperature, '
            "top_k, top_p, seed and stop, or with lines of OpenAI's batch files "
            "(docs/batch-files.md).",
        ),
        click.Option(
            ["--out"],
            type=OUT_FILE,
            metavar="FILE",
            help="File for the results: one JSON line for each prompt, and for each line "
            "that is not a prompt.",
        ),
        click.Option(
            ["--overwrite"], is_flag=True, help="Replace an existing --out file."
        ),
        click.Option(
            ["--resume"],
            is_flag=True,
            help="Continue the --out file, however the last run ended, and skip prompts "
            "that have a result there. The first run may have this option too.",
        ),
    ),
)
SAMPLING = OptionGroup(
    title="Sampling",
    record=SamplingOptions,
    parameter="sampling",
    options=(
        click.Option(
            ["--max-new-tokens"],
            type=POSITIVE,
            help="Maximum number of new tokens per prompt (default: as the strategy "
            "plans).",
        ),
        click.Option(
            ["--temperature"],
            type=float,
            default=0.0,
            show_default=True,
            help="Temperature of sampling; 0 always takes the most likely token.",
        ),
        click.Option(
            ["--top-k"],
            type=int,
            default=0,
            show_default=True,
            help="Number of most likely tokens to draw from; 0 draws from all.",
        ),
        click.Option(
            ["--top-p"],
            type=float,
            default=1.0,
            show_default=True,
            help="Draw from the fewest most likely tokens whose probabilities add up to "
            "this.",
        ),
        click.Option(
            ["--seed"],
            type=int,
            default=0,
            show_default=True,
            help="Seed of the draws of every prompt.",
        ),
        click.Option(
            ["--stop"],
            multiple=True,
            metavar="TEXT",
            help="End a continuation before this text. May be repeated.",
        ),
        click.Option(
            ["--chat"],
            is_flag=True,
            help="Apply the checkpoint's chat template to plain prompts.",
        ),
        click.Option(
            ["--ignore-eos"],
            is_flag=True,
            help="Continue after an end-of-text token.",
        ),
    ),
)
RECORDS = OptionGroup(
    title="Records of the run",
    record=RecordOptions,
    parameter="records",
    options=(
        click.Option(
            ["--record"],
            type=OUT_FILE,
            metavar="FILE",
            help="File for the times of every stage, as JSON lines.",
        ),
        click.Option(
            ["--trace"],
            type=OUT_FILE,
            metavar="FILE",
            help="File for the same times as JSON for Perfetto or Chrome.",
        ),
        click.Option(
            ["--timeline"],
            type=OUT_FILE,
            metavar="FILE",
            help="File for a picture of the last batch (.png or .svg).",
        ),
    ),
)
