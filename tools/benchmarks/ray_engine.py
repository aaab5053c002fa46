"""Compares a pipeline whose stages are processes under Ray with the same in one process.

    python -m tools.benchmarks.ray_engine --batch 16

Both engines serve the same requests under the same plan on the same machine, in turns. The
first turn of each is not timed. Ray runs only for this benchmark.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast

import click
import ray

from llmpq_jax.kernels import kernel_path
from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.engines.ray.ray_engine import start_ray
from llmpq_jax.runtime.engines.transport import TransportName
from llmpq_jax.schema.precision import Activations, Bits
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
@click.option(
    "--activations", type=click.Choice(["float32", "bfloat16"]), default="bfloat16"
)
@click.option("--batch", type=int, default=16)
@click.option("--prompt", type=int, default=64)
@click.option("--new-tokens", type=int, default=64)
@click.option("--stages", type=int, default=2)
@click.option("--decode", type=int, default=4, help="Rows of a decode micro-batch.")
@click.option(
    "--transport",
    type=click.Choice(["sockets", "calls", "transfer"]),
    default="sockets",
)
@click.option("--repeats", type=int, default=5)
def main(
    model: str,
    models: Path,
    bits: str,
    activations: Activations,
    batch: int,
    prompt: int,
    new_tokens: int,
    stages: int,
    decode: int,
    transport: TransportName,
    repeats: int,
) -> None:
    """Times a random checkpoint, cut into stages of equal layers."""
    folder = random_model(model, models.absolute())
    strategy = even_strategy(
        folder,
        bits=cast("Bits", int(bits)),
        head_bits=8,
        num_stages=stages,
        batch=batch,
        prefill=min(decode, 4),
        decode=decode,
        prompt_length=prompt,
        new_tokens=new_tokens,
        activations=activations,
    )
    requests = random_requests(
        folder, num_requests=batch, prompt_length=prompt, new_tokens=new_tokens
    )
    under_ray = partial(start_ray, address="local", transport=transport)
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    with (
        Pipeline.load(strategy, start=under_ray) as ray_pipeline,
        Pipeline.load(strategy) as local_pipeline,
    ):
        pipelines = {"local": local_pipeline, "ray": ray_pipeline}
        texts = {}
        for turn in range(repeats + 1):
            for engine, pipeline in pipelines.items():
                if turn == 0:
                    pipeline.prepare(requests)
                started_s = time.perf_counter()
                completions = list(pipeline.serve(requests))
                if turn:
                    seconds[engine].append(time.perf_counter() - started_s)
                texts[engine] = [completion.token_ids for completion in completions]
        same = sum(
            one == other
            for one, other in zip(texts["local"], texts["ray"], strict=True)
        )
    rates = {
        engine: batch * new_tokens / median(spans) for engine, spans in seconds.items()
    }
    ratios = [
        one / other for one, other in zip(seconds["local"], seconds["ray"], strict=True)
    ]
    click.echo(
        f"| {model} | {bits} | {batch} | {stages} | {decode} | {transport} | {rates['local']:.1f} "
        f"| {rates['ray']:.1f} | {median(ratios):.2f} |"
    )
    figures = {
        "model": model,
        "bits": int(bits),
        "activations": activations,
        "batch": batch,
        "stages": stages,
        "decode": decode,
        "transport": transport,
        "prompt": prompt,
        "new_tokens": new_tokens,
        "local_tokens_per_s": rates["local"],
        "ray_tokens_per_s": rates["ray"],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "same_completions": same,
        "kernels": kernel_path("cpu"),
        "ray": ray.__version__,
        **provenance("tools.benchmarks.ray_engine"),
    }
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
