"""`llmpq-jax check`: does a strategy fit its devices, and load there?"""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.cli.options.engine import ENGINE, EngineOptions, refuse_without
from llmpq_jax.cli.options.option_group import command, flag
from llmpq_jax.cli.options.shared import JSON, STRATEGY, cache_home


@command(
    "check",
    # A worker that fails is what is looked for here, so none is started again.
    ENGINE.only("engine", "address", "heartbeat_timeout_s", "weights_cache"),
    strategy_path=STRATEGY,
    loads=flag("Load the weights too, and run each stage once.", name="--load"),
    as_json=JSON,
)
def check_command(
    engine: EngineOptions, strategy_path: Path, loads: bool, as_json: bool
) -> None:
    """Compile a strategy's stages and check their memory.

    Each stage is compiled on the machine of its devices: this one, or with --engine ray
    the one that the strategy names. This needs no weights. It exits with 1 if a stage
    needs more memory than the plan allows, which is compared with it.
    """
    if not loads:
        refuse_without("--load", {"--weights-cache": engine.weights_cache})
    compile_stages = engine.compiler()
    start = engine.starter(restarts=False) if loads else None

    from dataclasses import asdict

    from llmpq_jax.errors import StrategyError
    from llmpq_jax.report.console import print_json, print_table
    from llmpq_jax.report.memory import compiled_memory_table
    from llmpq_jax.schema.record_files import read_strategy
    from llmpq_jax.tasks.check import fit_stages
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.units import format_bytes

    strategy = read_strategy(strategy_path)
    keep_compiled(cache_home())
    fits = fit_stages(strategy, compile_stages=compile_stages, start=start)
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
