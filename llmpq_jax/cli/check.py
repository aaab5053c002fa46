"""`llmpq-jax check`: does this strategy fit and load here?"""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.shared_options import cache_home, json_option, strategy_option


@click.command("check")
@strategy_option
@click.option(
    "--load", "loads", is_flag=True, help="Load the weights too, and run once."
)
@json_option
def check_command(strategy_path: Path, loads: bool, as_json: bool) -> None:
    """Compile a strategy's stages here, without weights, and account for memory.

    Puts what the compiler says each stage needs beside what the plan predicts. Ends
    with 1 where a stage needs more than the plan allows it.
    """
    import json
    from dataclasses import asdict

    from llmpq_jax.errors import StrategyError
    from llmpq_jax.report.compiled_memory import fit_table
    from llmpq_jax.report.console import progress_bar, say, show
    from llmpq_jax.schema.strategy_file import read_strategy
    from llmpq_jax.tasks.check import fit_stages
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.units import format_bytes

    strategy = read_strategy(strategy_path)
    keep_compiled(cache_home())
    with progress_bar("compiling", len(strategy.stages), unit="stages") as advance:
        fits = fit_stages(strategy, loads=loads, on_stage=lambda: advance(1))
    if as_json:
        stages = [
            {"compiled": fit.compiled, "fits": fit.fits, **asdict(fit)} for fit in fits
        ]
        say(json.dumps({"stages": stages}, indent=2))
    else:
        accounts = [fit.accounts for fit in fits]
        show(fit_table(strategy, accounts, [fit.loaded for fit in fits]))
    for stage, fit in zip(strategy.stages, fits, strict=True):
        if not fit.fits and fit.allowed is not None:
            msg = f"the stage on {', '.join(stage.devices)} needs {format_bytes(fit.compiled)} as compiled, it may use {format_bytes(fit.allowed)}: solve again with a smaller batch or fewer bits"
            raise StrategyError(msg)
