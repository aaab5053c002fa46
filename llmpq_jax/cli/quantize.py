"""`llmpq-jax quantize`: writes what a strategy serves as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from llmpq_jax.cli.shared_options import (
    FILE,
    cache_home,
    json_option,
    strategy_option,
)


@click.command("quantize")
@strategy_option
@click.option(
    "--out",
    type=FILE,
    required=True,
    metavar="DIR",
    help="Folder to be made: weights in compressed-tensors, config.json, tokenizer, and "
    "a strategy.toml that serves it.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a folder that this command wrote."
)
@json_option
def quantize_command(
    strategy_path: Path, out: Path, overwrite: bool, as_json: bool
) -> None:
    """Write a strategy's weights as a checkpoint, as they would be served.

    The model passes through one layer at a time, so it may be larger than memory.
    """
    import json
    from dataclasses import asdict

    from llmpq_jax.report.checkpoints import written_table
    from llmpq_jax.report.console import say, show
    from llmpq_jax.tasks.compile_cache import keep_compiled
    from llmpq_jax.tasks.quantize import STRATEGY, write_checkpoint

    keep_compiled(cache_home())
    written = write_checkpoint(strategy_path, out, overwrite=overwrite)
    if as_json:
        values = {
            "out": str(out),
            "strategy": str(out / STRATEGY),
            "fingerprint": written.strategy.model.fingerprint,
            "bytes_before": written.bytes_before,
            "bytes_after": written.bytes_after,
            "parts": [asdict(part) for part in written.parts],
        }
        say(json.dumps(values, indent=2))
        return
    show(written_table(written.parts))
    say(f"written      {out}")
    say(f"strategy     {out / STRATEGY}")
