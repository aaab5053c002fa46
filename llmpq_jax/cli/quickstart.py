"""`llmpq-jax quickstart`: measure, plan and run once, on the example model."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.options.option_group import command, option
from llmpq_jax.cli.options.paths import OutputFolder
from llmpq_jax.cli.options.shared import FILE, cache_home


@command(
    "quickstart",
    model=option(
        "Checkpoint folder (default: the example model of a source checkout).",
        FILE,
        metavar="DIR",
    ),
    work_dir=option(
        "Folder for all files; those of an earlier run are replaced.",
        OutputFolder(),
        default=Path("llmpq-quickstart"),
    ),
)
def quickstart_command(model: Path | None, work_dir: Path) -> None:
    """Profile, solve and generate once with a tiny model.

    Each step is explained as it runs. No accelerator is needed: the devices are four
    that JAX emulates on the processor, with scarce memory.
    """
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.quickstart import quickstart

    keep_compiled(cache_home())
    quickstart(work_dir, model=model, command=command_as_typed())
