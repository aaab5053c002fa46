"""`llmpq-jax export`: a plan in the words of another engine."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.shared_options import (
    json_option,
    strategy_option,
)


@click.command("export")
@strategy_option
@click.option(
    "--to", "engine", type=click.Choice(["vllm"]), required=True, help="Which engine."
)
@json_option
def export_command(strategy_path: Path, engine: str, as_json: bool) -> None:
    """Write what another engine can take of a plan.

    The command line goes to stdout, what the engine cannot take to stderr.
    """
    del engine  # one so far
    import json
    from dataclasses import asdict

    from llmpq_jax.report.console import say, tell
    from llmpq_jax.report.vllm import vllm_export
    from llmpq_jax.schema.strategy_file import read_strategy

    exported = vllm_export(read_strategy(strategy_path))
    if as_json:
        say(json.dumps(asdict(exported) | {"command": exported.command}, indent=2))
        return
    say(f"# devices by rank: {', '.join(exported.devices)}")
    say(exported.command)
    for sentence in exported.left_out:
        tell(f"left out: {sentence}")
