"""`llmpq-jax generate`: runs a strategy on prompts."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmpq_jax.cli.engine_options import (
    chosen_engine,
    engine_options,
    open_weights_cache,
)
from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.loss_options import LossOptions, loss_options, resolver
from llmpq_jax.cli.shared_options import (
    FILE,
    OUT_FILE,
    POSITIVE,
    cache_home,
    json_option,
    strategy_option,
)

if TYPE_CHECKING:
    from llmpq_jax.batch.results import Result
    from llmpq_jax.runtime.engines.transport.config import TransportName


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
    "custom_id, max_new_tokens, temperature, top_k, top_p, seed and stop, or with the "
    "lines of OpenAI's batch files (docs/batch-files.md).",
)
@click.option(
    "--out",
    type=OUT_FILE,
    metavar="FILE",
    help="Results, a JSON line for each prompt, and for each line that is none.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file --out names.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the file --out names, however the last run ended: what has its "
    "result there is done. The first run may say it too.",
)
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
@engine_options
@loss_options
@json_option
def generate_command(
    strategy_path: Path,
    texts: tuple[str, ...],
    prompts_path: Path | None,
    out: Path | None,
    overwrite: bool,
    resume: bool,
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
    engine: str,
    address: str | None,
    heartbeat_timeout_s: float | None,
    restart_timeout_s: float | None,
    transport: TransportName | None,
    weights_cache: str | None,
    as_json: bool,
    **loss: Any,
) -> None:
    """Continue prompts by running a strategy."""
    if bool(texts) == (prompts_path is not None):
        msg = "expected either --prompt (once or more) or --prompts"
        raise click.UsageError(msg)
    if resume and (out is None or prompts_path is None or overwrite):
        msg = "--resume goes on with the results of a file: expected --prompts and --out beside it, and no --overwrite"
        raise click.UsageError(msg)
    if timeline is not None and timeline.suffix not in {".png", ".svg"}:
        msg = f"--timeline {timeline}: expected a name that ends in .png or .svg"
        raise click.UsageError(msg)
    losses = LossOptions(**loss)
    losses.check(engine=engine, out=out)
    start = chosen_engine(
        engine,
        address=address,
        heartbeat_timeout_s=heartbeat_timeout_s,
        restart_timeout_s=restart_timeout_s,
        restarts=losses.on_loss != "stop",
        transport=transport,
        weights_cache=weights_cache,
    )

    from llmpq_jax.batch.prompt import PromptDefaults
    from llmpq_jax.batch.prompt_file import PromptFile, make_prompts
    from llmpq_jax.runtime.request import Sampling
    from llmpq_jax.schema.strategy_file import read_strategy

    choices = PromptDefaults(
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        stop=stop,
    )
    lines = (
        make_prompts(texts, choices)
        if prompts_path is None
        else PromptFile(prompts_path, choices)
    )
    strategy = read_strategy(strategy_path)

    from llmpq_jax.batch.manifest import make_job
    from llmpq_jax.batch.results import result_values
    from llmpq_jax.batch.results_file import ResultsFile
    from llmpq_jax.cli.generate_output import print_json, print_run, print_texts
    from llmpq_jax.report.console import tell
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.generate import serve_prompts, write_records

    keep_compiled(cache_home())
    shown: list[Result] = []
    model = Path(strategy.model.path).resolve().name
    with ExitStack() as stack:
        file = None
        if out is not None:
            job = make_job(
                strategy, lines, choices, is_chat=chat, ignores_eos=ignore_eos
            )
            if_there = "resume" if resume else "replace" if overwrite else "refuse"
            file = stack.enter_context(ResultsFile(out, if_there=if_there, job=job))
            if file.num_kept:
                tell(f"going on with {out}: {file.num_kept} results are there")
        solve_again = None
        if losses.on_loss == "resolve":
            assert out is not None
            assert file is not None
            solve_again = resolver(losses, strategy, out=out, results=file)

        def on_result(result: Result) -> None:
            if file is not None:
                file.add(result_values(result, model=model))
            if file is None or as_json:
                shown.append(result)

        served = serve_prompts(
            strategy,
            lines,
            start=start,
            weights_cache=open_weights_cache(weights_cache),
            is_chat=chat,
            ignores_eos=ignore_eos,
            keeps_events=any((record, trace, timeline)),
            is_done=(lambda _: False) if file is None else file.has,
            on_result=on_result,
            solve_again=solve_again,
            restarts_unfinished=losses.restart_unfinished,
        )
    shown.sort(key=lambda result: result.line.number)
    if served.batches:
        write_records(
            served,
            command=command_as_typed(),
            record=record,
            trace=trace,
            timeline=timeline,
        )
    if as_json:
        print_json(shown, served, model=model)
    elif served.batches:
        print_texts(shown)
        print_run(served)
        for what, path in (
            ("results", out),
            ("run record", record),
            ("trace", trace),
            ("timeline", timeline),
        ):
            if path is not None:
                click.echo(f"{what:<12} {path}")
    elif served.bad_lines is None:
        tell("every prompt has its result: there is nothing to do")
    served.check(out, num_kept_errors=file.num_kept_errors if file else 0)
