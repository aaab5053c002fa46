"""`llmpq-jax generate`: runs a strategy on prompts."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options.engine import ENGINE, EngineOptions, open_weights_cache
from llmpq_jax.cli.options.failures import FAILURES, FailureOptions
from llmpq_jax.cli.options.option_group import OptionGroup, command
from llmpq_jax.cli.options.shared import (
    FILE,
    JSON,
    OUT_FILE,
    POSITIVE,
    STRATEGY,
    cache_home,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmpq_jax.batch.prompt import PromptDefaults
    from llmpq_jax.batch.result_line import Result
    from llmpq_jax.batch.results_file import ResultsFile
    from llmpq_jax.runtime.engines.engine import DeviceFailedError
    from llmpq_jax.schema.strategy import Strategy
    from llmpq_jax.tasks.generate import Served, ServeSettings


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
            help="File for when each stage did what, as JSON lines.",
        ),
        click.Option(
            ["--trace"],
            type=OUT_FILE,
            metavar="FILE",
            help="File for the same as JSON for Perfetto or Chrome.",
        ),
        click.Option(
            ["--timeline"],
            type=OUT_FILE,
            metavar="FILE",
            help="File for a picture of the last batch (.png or .svg).",
        ),
    ),
)


@command("generate", BATCH, SAMPLING, ENGINE, FAILURES, RECORDS, JSON)
def generate_command(
    strategy_path: Path,
    batch: BatchOptions,
    sampling: SamplingOptions,
    engine: EngineOptions,
    failures: FailureOptions,
    records: RecordOptions,
    as_json: bool,
) -> None:
    """Continue prompts by running a strategy."""
    failures.check(engine=engine.engine, out=batch.out)
    start = engine.starter(restarts=failures.on_loss != "stop")

    from llmpq_jax.batch.manifest import make_manifest
    from llmpq_jax.batch.prompt_file import PromptFile, make_prompts
    from llmpq_jax.batch.result_line import result_values
    from llmpq_jax.batch.results_file import ResultsFile
    from llmpq_jax.report.console import tell
    from llmpq_jax.schema.strategy_file import read_strategy
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.generate import ServeSettings, serve_prompts

    defaults = sampling.defaults
    lines = (
        make_prompts(batch.texts, defaults)
        if batch.prompts_path is None
        else PromptFile(batch.prompts_path, defaults)
    )
    strategy = read_strategy(strategy_path)
    keep_compiled(cache_home())
    settings = ServeSettings(
        start=start,
        weights_cache=open_weights_cache(engine.weights_cache),
        is_chat=sampling.chat,
        ignores_eos=sampling.ignore_eos,
        keeps_events=any((records.record, records.trace, records.timeline)),
        restarts_unfinished=failures.restart_unfinished,
    )
    shown: list[Result] = []
    model = Path(strategy.model.path).resolve().name
    with ExitStack() as stack:
        file = solve_again = None
        if batch.out is not None:
            manifest = make_manifest(
                strategy,
                lines,
                defaults,
                is_chat=sampling.chat,
                ignores_eos=sampling.ignore_eos,
            )
            if_exists = (
                "resume" if batch.resume else "replace" if batch.overwrite else "refuse"
            )
            file = stack.enter_context(
                ResultsFile(batch.out, if_exists=if_exists, manifest=manifest)
            )
            if file.num_kept:
                tell(f"continuing {batch.out}: it has {file.num_kept} results")
            if failures.on_loss == "resolve":
                solve_again = _replanner(
                    strategy_path, strategy, failures, batch.out, file
                )

        def on_result(result: Result) -> None:
            if file is not None:
                file.add(result_values(result, model=model))
            if file is None or as_json:
                shown.append(result)

        served = serve_prompts(
            strategy,
            lines,
            settings,
            is_done=(lambda _: False) if file is None else file.has,
            on_result=on_result,
            solve_again=solve_again,
        )
    shown.sort(key=lambda result: result.line.number)
    _write_and_print(served, shown, batch.out, records, model=model, as_json=as_json)
    served.check(batch.out, num_kept_errors=file.num_kept_errors if file else 0)
