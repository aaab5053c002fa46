"""`llmpq-jax quickstart`: the whole way once, on a model that ships with the project."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.group import command_as_typed
from llmpq_jax.cli.shared_options import FILE, cache_home


@click.command("quickstart")
@click.option(
    "--model",
    type=FILE,
    metavar="DIR",
    help="Checkpoint folder; by default the example model of a source checkout.",
)
@click.option(
    "--work-dir",
    type=FILE,
    default=Path("llmpq-quickstart"),
    show_default=True,
    metavar="DIR",
    help="Where all files go; an earlier run's are replaced.",
)
def quickstart_command(model: Path | None, work_dir: Path) -> None:
    """Do all three on a tiny model, and explain it."""
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.quickstart import quickstart

    keep_compiled(cache_home())
    quickstart(work_dir, model=model, command=command_as_typed())
