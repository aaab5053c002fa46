"""Prefill and decode of one model in tokens per second, compared with the memory's rate.

    python -m tools.benchmarks.throughput --bits 8 --batch 8

Prints a table row, and a JSON line with versions, command and date.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import cast

import click
import jax
import jax.numpy as jnp

from llmpq_jax.kernels import device_kernel_path
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.precision import Activations, Bits, HeadBits
from tools.benchmarks.models import (
    CONFIGS,
    even_strategy,
    random_model,
    random_requests,
)
from tools.provenance import provenance


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--bits", type=click.Choice(["4", "8", "16"]), default="8")
@click.option("--head-bits", type=click.Choice(["8", "16"]), default="8")
@click.option("--activations", default="float32")
@click.option("--batch", type=int, default=1)
@click.option("--prompt", type=int, default=128)
@click.option("--new-tokens", type=int, default=128)
@click.option("--stages", type=int, default=1)
@click.option(
    "--prefill", type=int, default=None, help="Sequences; by default the batch."
)
@click.option(
    "--decode", type=int, default=None, help="Sequences; by default the batch."
)
@click.option("--repeats", type=int, default=3)
@click.option("--platform", default="cpu")
def main(
    model: str,
    models: Path,
    bits: str,
    head_bits: str,
    activations: str,
    batch: int,
    prompt: int,
    new_tokens: int,
    stages: int,
    prefill: int | None,
    decode: int | None,
    repeats: int,
    platform: str,
) -> None:
    """Time a random checkpoint of a real shape."""
    folder = random_model(model, models)
    strategy = even_strategy(
        folder,
        bits=cast("Bits", int(bits)),
        head_bits=cast("HeadBits", int(head_bits)),
        num_stages=stages,
        batch=batch,
        prefill=prefill or batch,
        decode=decode or batch,
        prompt_length=prompt,
        new_tokens=new_tokens,
        activations=cast("Activations", activations),
        platform=platform,
    )
    started_s = time.perf_counter()
    with Pipeline.load(strategy) as pipeline:
        vocabulary = pipeline.architecture.vocabulary_size
        requests = random_requests(
            folder, num_requests=batch, prompt_length=prompt, new_tokens=new_tokens
        )
        loaded_s = time.perf_counter() - started_s
        pipeline.prepare(requests)
        prepared_s = time.perf_counter() - started_s - loaded_s
        for _ in range(repeats):
            list(pipeline.serve(requests))
        batches = pipeline.batches
        weight_bytes = sum(pipeline.weight_bytes)
        embedding_bytes = 2 * vocabulary * pipeline.architecture.hidden_size
    prefill_s = median(record.prefill_s for record in batches)
    step_s = median(record.decode_s for record in batches) / max(1, new_tokens - 1)
    figures = {
        "model": model,
        "bits": int(bits),
        "head_bits": int(head_bits),
        "activations": activations,
        "batch": batch,
        "prompt": prompt,
        "new_tokens": new_tokens,
        "stages": stages,
        "prefill_tokens_per_s": batch * prompt / prefill_s,
        "decode_tokens_per_s": batch / step_s,
        "step_ms": 1e3 * step_s,
        "weight_bytes_per_step": weight_bytes - embedding_bytes,
        "weight_gb_per_s": (weight_bytes - embedding_bytes) / step_s / 1e9,
        "read_gb_per_s": read_bandwidth() / 1e9,
        "spread": _spread([record.decode_s for record in batches]),
        "idle_share": [
            round(stage.idle_s / batches[-1].latency_s, 3)
            for stage in batches[-1].stages
        ],
        "load_s": loaded_s,
        "prepare_s": prepared_s,
        "kernels": device_kernel_path(jax.devices(platform)[0]),
        **provenance("tools.benchmarks.throughput"),
    }
    click.echo(
        f"| {model} | {bits} | {batch} | {stages} "
        f"| {figures['prefill_tokens_per_s']:.0f} | {figures['decode_tokens_per_s']:.1f} "
        f"| {figures['weight_gb_per_s']:.1f} of {figures['read_gb_per_s']:.1f} GB/s |"
    )
    click.echo(json.dumps(figures))


def read_bandwidth(num_bytes: int = 256 << 20) -> float:
    """Returns bytes per second of reading memory, by a sum on the default device."""
    values = jnp.zeros(num_bytes // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    total(values).block_until_ready()
    spans = []
    for _ in range(7):
        started_s = time.perf_counter()
        total(values).block_until_ready()
        spans.append(time.perf_counter() - started_s)
    return num_bytes / median(spans)


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / median(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
