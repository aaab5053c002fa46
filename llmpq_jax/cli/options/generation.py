"""Options of `generate`: prompts and results, sampling, and records of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmpq_jax.cli.options.option_group import flag, option, option_group, option_record
from llmpq_jax.cli.options.paths import OutputFile
from llmpq_jax.cli.options.shared import FILE, OUT_FILE, OVERWRITE, POSITIVE, STRATEGY

if TYPE_CHECKING:
    from llmpq_jax.batch.prompt import PromptDefaults


def _next_to_results(out: Path) -> Iterator[Path]:
    from llmpq_jax.batch.manifest import manifest_path

    yield manifest_path(out)


@option_record
class BatchOptions:
    """Strategy, prompts and results, as typed."""

    strategy_path: Path = STRATEGY
    texts: tuple[str, ...] = option(
        "Prompt to continue. May be repeated.",
        name="--prompt",
        multiple=True,
        metavar="TEXT",
    )
    prompts_path: Path | None = option(
        "File of prompts: .txt with one prompt per line, or .jsonl with "
        '{"prompt": "…"} and optionally custom_id, max_new_tokens, temperature, top_k, '
        "top_p, seed and stop, or with lines of OpenAI's batch files "
        "(docs/batch-files.md).",
        FILE,
        name="--prompts",
    )
    out: Path | None = option(
        "File for the results: one JSON line for each prompt, and for each line that is "
        "not a prompt.",
        OutputFile(others=_next_to_results),
    )
    overwrite: bool = OVERWRITE
    resume: bool = flag(
        "Continue the --out file, however the last run ended, and skip prompts that "
        "have a result there. The first run may have this option too."
    )

    def __post_init__(self) -> None:
        if bool(self.texts) == (self.prompts_path is not None):
            msg = "expected either --prompt (once or more) or --prompts"
            raise ValueError(msg)
        if self.resume and (
            self.out is None or self.prompts_path is None or self.overwrite
        ):
            msg = "--resume continues the results of a file: expected --prompts and --out with it, and no --overwrite"
            raise ValueError(msg)


@option_record
class SamplingOptions:
    """How tokens are drawn, as typed."""

    max_new_tokens: int | None = option(
        "Maximum number of new tokens per prompt (default: as the strategy plans).",
        POSITIVE,
    )
    temperature: float = option(
        "Temperature of sampling; 0 always takes the most likely token.", default=0.0
    )
    top_k: int = option(
        "Number of most likely tokens to draw from; 0 draws from all.", default=0
    )
    top_p: float = option(
        "Draw from the fewest most likely tokens whose probabilities add up to this.",
        default=1.0,
    )
    seed: int = option("Seed of the draws of every prompt.", default=0)
    stop: tuple[str, ...] = option(
        "End a continuation before this text. May be repeated.",
        multiple=True,
        metavar="TEXT",
    )
    chat: bool = flag("Apply the checkpoint's chat template to plain prompts.")
    ignore_eos: bool = flag("Continue after an end-of-text token.")

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


@option_record
class RecordOptions:
    """What is written about the run, as typed."""

    record: Path | None = option(
        "File for the times of every stage, as JSON lines.", OUT_FILE
    )
    trace: Path | None = option(
        "File for the same times as JSON for Perfetto or Chrome.", OUT_FILE
    )
    timeline: Path | None = option(
        "File for a picture of the last batch (.png or .svg).", OUT_FILE
    )

    def __post_init__(self) -> None:
        timeline = self.timeline
        if timeline is not None and timeline.suffix not in {".png", ".svg"}:
            msg = f"--timeline {timeline}: expected a name that ends in .png or .svg"
            raise ValueError(msg)


BATCH = option_group("Prompts and results", BatchOptions, "batch")
SAMPLING = option_group("Sampling", SamplingOptions, "sampling")
RECORDS = option_group("Records of the run", RecordOptions, "records")
