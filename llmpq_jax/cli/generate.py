"""`llmpq-jax generate`: runs a strategy on prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options import (
    FILE,
    OUT_FILE,
    POSITIVE,
    cache_home,
    json_option,
    strategy_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmpq_jax.spec.strategy import Strategy
    from llmpq_jax.workflow.prompt_file import Prompt
    from llmpq_jax.workflow.serving import Served


@click.command("generate")
@strategy_option
@click.option(
    "--prompt",
    "texts",
    multiple=True,
    metavar="TEXT",
    help="A prompt; may be repeated.",
)
@click.option(
    "--prompts",
    "prompts_path",
    type=FILE,
    metavar="FILE",
    help='Prompts: .txt, one a line, or .jsonl with {"prompt": "…"} and optionally '
    "custom_id, max_new_tokens, temperature, top_k, top_p, seed and stop.",
)
@click.option(
    "--out", type=OUT_FILE, metavar="FILE", help="Results, a JSON line for each prompt."
)
@click.option("--overwrite", is_flag=True, help="Replace the file --out names.")
@click.option(
    "--max-new-tokens",
    type=POSITIVE,
    help="For each prompt; by default what the strategy plans for.",
)
@click.option(
    "--temperature",
    type=float,
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token.",
)
@click.option(
    "--top-k",
    type=int,
    default=0,
    show_default=True,
    help="Draw among so many likeliest tokens; 0 among all.",
)
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Draw among the fewest tokens that have this probability together.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of every prompt's draws."
)
@click.option(
    "--stop",
    multiple=True,
    metavar="TEXT",
    help="End before this text; may be repeated.",
)
@click.option(
    "--chat", is_flag=True, help="Send prompts through the checkpoint's chat template."
)
@click.option("--ignore-eos", is_flag=True, help="Go on whatever the model says.")
@click.option(
    "--record",
    type=OUT_FILE,
    metavar="FILE",
    help="What each stage did when, JSON lines.",
)
@click.option(
    "--trace",
    type=OUT_FILE,
    metavar="FILE",
    help="The same for Perfetto or Chrome, JSON.",
)
@click.option(
    "--timeline",
    type=OUT_FILE,
    metavar="FILE",
    help="The last batch as a picture, PNG.",
)
@json_option
def generate_command(
    strategy_path: Path,
    texts: tuple[str, ...],
    prompts_path: Path | None,
    out: Path | None,
    overwrite: bool,
    max_new_tokens: int | None,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: tuple[str, ...],
    chat: bool,
    ignore_eos: bool,
    record: Path | None,
    trace: Path | None,
    timeline: Path | None,
    as_json: bool,
) -> None:
    """Continue prompts by running a strategy here."""
    if bool(texts) == (prompts_path is not None):
        msg = "expected either --prompt (once or more) or --prompts"
        raise click.UsageError(msg)
    if timeline is not None and timeline.suffix not in {".png", ".svg"}:
        msg = f"--timeline {timeline}: expected a name that ends in .png or .svg"
        raise click.UsageError(msg)
    from contextlib import ExitStack

    from llmpq_jax.runtime.request import Sampling
    from llmpq_jax.spec.strategy_file import read_strategy
    from llmpq_jax.workflow.prompt_file import Choices, prompts_of, read_prompts

    choices = Choices(
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        stop=stop,
    )
    prompts = (
        prompts_of(texts, choices)
        if prompts_path is None
        else read_prompts(prompts_path, choices)
    )
    strategy = read_strategy(strategy_path)

    from llmpq_jax.workflow.compile_cache import keep_compiled
    from llmpq_jax.workflow.results_file import ResultsFile
    from llmpq_jax.workflow.serving import serve_prompts, write_records

    keep_compiled(cache_home())
    with ExitStack() as stack:
        results = None
        if out is not None:
            results = stack.enter_context(ResultsFile(out, overwrite=overwrite))
        served = serve_prompts(
            strategy,
            prompts,
            is_chat=chat,
            ignores_eos=ignore_eos,
            on_result=(lambda *_: None) if results is None else results.add,
        )
    write_records(
        strategy,
        served,
        command=command_as_typed(),
        record=record,
        trace=trace,
        timeline=timeline,
    )
    if as_json:
        _print_json(strategy, prompts, served)
        return
    if out is None:
        _print_texts(prompts, served)
    _print_run(strategy, served)
    for what, path in (
        ("results", out),
        ("run record", record),
        ("trace", trace),
        ("timeline", timeline),
    ):
        if path is not None:
            click.echo(f"{what:<12} {path}")


def _print_texts(prompts: Sequence[Prompt], served: Served) -> None:
    from llmpq_jax.report.console import say
    from llmpq_jax.report.texts import continued_text

    for prompt, completion in zip(prompts, served.completions, strict=True):
        say(
            f"── {prompt.custom_id}: {len(completion.token_ids)} new tokens, "
            f"ended by {completion.finish_reason}"
        )
        say(continued_text(prompt.text, completion.text))
        say()


def _print_run(strategy: Strategy, served: Served) -> None:
    from llmpq_jax.report.console import say, show
    from llmpq_jax.report.lines import run_lines
    from llmpq_jax.report.tables import run_table

    show(run_table(strategy, served.batches))
    for line in run_lines(strategy, served.batches):
        say(line)


def _print_json(strategy: Strategy, prompts: Sequence[Prompt], served: Served) -> None:
    import json
    from dataclasses import asdict

    from llmpq_jax.report.console import say
    from llmpq_jax.workflow.results_file import result_values

    batches = [asdict(batch) for batch in served.batches]
    for batch in batches:
        del batch["events"]
    values = {
        "results": [
            result_values(prompt, completion)
            for prompt, completion in zip(prompts, served.completions, strict=True)
        ],
        "predicted": strategy.predicted and asdict(strategy.predicted),
        "batches": batches,
    }
    say(json.dumps(values, indent=2))
