"""`llmpq-jax check`: does a strategy fit and load here?"""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.cli.options.option_group import command, flag
from llmpq_jax.cli.options.shared import JSON, STRATEGY, cache_home


@command(
    "check",
    strategy_path=STRATEGY,
    loads=flag("Load the weights too, and run each stage once.", name="--load"),
    as_json=JSON,
)
def check_command(strategy_path: Path, loads: bool, as_json: bool) -> None:
    """Compile a strategy's stages here and check their memory.

    It is compared with the plan's. This needs no weights. It exits with 1 if a stage needs more memory than the plan
    allows.
    """
    from dataclasses import asdict

    from llmpq_jax.errors import StrategyError
    from llmpq_jax.report.console import print_json, print_table, progress_bar
    from llmpq_jax.report.memory import compiled_memory_table
    from llmpq_jax.schema.record_files import read_strategy
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
        print_json({"stages": stages})
    else:
        programs = [fit.programs for fit in fits]
        print_table(
            compiled_memory_table(strategy, programs, [fit.loaded for fit in fits])
        )
    for stage, fit in zip(strategy.stages, fits, strict=True):
        if not fit.fits and fit.allowed is not None:
            msg = f"the stage on {', '.join(stage.devices)} needs {format_bytes(fit.compiled)} as compiled, it may use {format_bytes(fit.allowed)}: solve again with a smaller batch or fewer bits"
            raise StrategyError(msg)
