"""`llmpq-jax export`: a plan as a command line of another engine."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.options.option_group import command, option
from llmpq_jax.cli.options.shared import JSON, STRATEGY


@command(
    "export",
    strategy_path=STRATEGY,
    engine=option(
        "Engine to export to.", click.Choice(["vllm"]), name="--to", required=True
    ),
    as_json=JSON,
)
def export_command(strategy_path: Path, engine: str, as_json: bool) -> None:
    """Print a plan as the command line of another engine.

    What the engine cannot do is listed on stderr.
    """
    del engine  # one so far
    from dataclasses import asdict

    from llmpq_jax.report.console import log, print_json, print_line
    from llmpq_jax.report.vllm import vllm_export
    from llmpq_jax.schema.record_files import read_strategy

    exported = vllm_export(read_strategy(strategy_path))
    if as_json:
        print_json(asdict(exported) | {"command": exported.command})
        return
    print_line(f"# devices by rank: {', '.join(exported.devices)}")
    print_line(exported.command)
    for sentence in exported.left_out:
        log(f"left out: {sentence}")
