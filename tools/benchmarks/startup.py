"""Seconds from a command to its second token, with and without caches.

    python -m tools.benchmarks.startup --bits 8

Prints a table row and a JSON line with versions, command and date. The whole process is
timed, including Python's start and imports; the checkpoint's files are in the system's
cache. Two tokens are generated, so that prefill and decode are both compiled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import cast

import click

from llmpq_jax.kernels import kernel_path
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.record_files import write_strategy
from tools.benchmarks.models import CONFIGS, even_strategy, random_model
from tools.provenance import provenance

# By default JAX does not cache small programs.
_KEEP_ALL = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
_KEEP_NONE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--bits", type=click.Choice(["4", "8", "16"]), default="8")
@click.option("--activations", default="bfloat16")
@click.option("--repeats", type=int, default=3)
def main(model: str, models: Path, bits: str, activations: str, repeats: int) -> None:
    """Time `llmpq-jax generate` from start to end."""
    strategy = even_strategy(
        random_model(model, models).resolve(),
        bits=cast("Bits", int(bits)),
        head_bits=8,
        num_stages=1,
        batch=1,
        prefill=1,
        decode=1,
        prompt_length=128,
        new_tokens=128,
        activations=activations,  # pyright: ignore[reportArgumentType]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "strategy.toml")
        write_strategy(path, strategy)
        cache = {"JAX_COMPILATION_CACHE_DIR": str(Path(folder, "compiled"))} | _KEEP_ALL
        weights = str(Path(folder, "weights"))
        _seconds(path, cache, weights)
        spans: dict[str, list[float]] = {"cold": [], "warm": [], "weights": []}
        for _ in range(repeats):
            spans["cold"].append(_seconds(path, _KEEP_NONE, "none"))
            spans["warm"].append(_seconds(path, cache, "none"))
            spans["weights"].append(_seconds(path, cache, weights))
    middle = {name: median(values) for name, values in spans.items()}
    print("| model | bits | cold s | warm compile cache s | with weights cache too s |")
    print("|---|---|---|---|---|")
    print(
        f"| {model} | {bits} | "
        + " | ".join(f"{s:.2f}" for s in middle.values())
        + " |"
    )
    print(
        json.dumps(
            {
                "model": model,
                "bits": int(bits),
                "seconds": spans,
                "kernels": kernel_path("cpu"),
                **provenance("tools.benchmarks.startup"),
            }
        )
    )


def _seconds(strategy: Path, variables: dict[str, str], weights_cache: str) -> float:
    command = [sys.executable, "-m", "llmpq_jax", "generate"]
    command += ["--strategy", str(strategy), "--prompt", "The first thing to know is"]
    command += ["--max-new-tokens", "2", "--weights-cache", weights_cache]
    started_s = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, **variables}
    )
    return time.perf_counter() - started_s


if __name__ == "__main__":
    main()
