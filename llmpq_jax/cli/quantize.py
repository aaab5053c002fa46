"""`llmpq-jax quantize`: writes what a strategy serves as a checkpoint."""

from __future__ import annotations

from pathlib import Path

from llmpq_jax.cli.options.option_group import command, flag, option
from llmpq_jax.cli.options.paths import OutputFolder
from llmpq_jax.cli.options.shared import JSON, STRATEGY, cache_home


@command(
    "quantize",
    strategy_path=STRATEGY,
    out=option(
        "Folder to write: weights in the compressed-tensors format, config.json, "
        "tokenizer, and a strategy.toml that serves them.",
        OutputFolder(),
        required=True,
    ),
    overwrite=flag("Replace a folder that this command wrote."),
    as_json=JSON,
)
def quantize_command(
    strategy_path: Path, out: Path, overwrite: bool, as_json: bool
) -> None:
    """Write the weights that a strategy serves as a checkpoint.

    The model passes through memory one layer at a time, so it may be larger than memory.
    """
    from dataclasses import asdict

    from llmpq_jax.report.console import print_json, print_paths, print_table
    from llmpq_jax.report.tables import written_table
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
        print_json(values)
        return
    print_table(written_table(written.parts))
    print_paths(written=out, strategy=out / STRATEGY)
