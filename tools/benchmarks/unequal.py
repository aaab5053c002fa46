"""Requests of unequal lengths: slots refilled at once, compared with fixed batches.

    python -m tools.benchmarks.unequal --batch 8 --requests 32

Both serve the same requests under the same plan, in turns.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import cast

import click
import numpy as np

from llmpq_jax.kernels import kernel_path
from llmpq_jax.runtime import Pipeline
from llmpq_jax.runtime.request import Request
from llmpq_jax.schema.precision import Activations, Bits
from tools.benchmarks.models import CONFIGS, even_strategy, random_model
from tools.provenance import provenance


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--bits", type=click.Choice(["4", "8", "16"]), default="8")
@click.option(
    "--activations", type=click.Choice(["float32", "bfloat16"]), default="float32"
)
@click.option("--batch", type=int, default=8)
@click.option("--stages", type=int, default=1)
@click.option(
    "--decode", type=int, default=None, help="Sequences; by default the batch."
)
@click.option("--requests", "num_requests", type=int, default=32)
@click.option("--prompt", type=int, default=64)
@click.option("--min-new-tokens", type=int, default=16, show_default=True)
@click.option("--max-new-tokens", type=int, default=512, show_default=True)
@click.option("--repeats", type=int, default=2)
def main(
    model: str,
    models: Path,
    bits: str,
    activations: Activations,
    batch: int,
    stages: int,
    decode: int | None,
    num_requests: int,
    prompt: int,
    min_new_tokens: int,
    max_new_tokens: int,
    repeats: int,
) -> None:
    """Time requests whose new tokens are drawn uniformly between two lengths."""
    strategy = even_strategy(
        random_model(model, models),
        bits=cast("Bits", int(bits)),
        head_bits=8,
        num_stages=stages,
        batch=batch,
        prefill=1,
        decode=decode or batch,
        prompt_length=prompt,
        new_tokens=max_new_tokens,
        activations=activations,
    )
    generator = np.random.default_rng(0)
    seconds: dict[str, list[float]] = {"refilled": [], "fixed": []}
    with Pipeline.load(strategy) as pipeline:
        vocabulary = pipeline.architecture.vocabulary_size
        requests = [
            Request(
                token_ids=tuple(generator.integers(3, vocabulary, prompt).tolist()),
                max_new_tokens=int(
                    generator.integers(min_new_tokens, max_new_tokens + 1)
                ),
                ignores_eos=True,
            )
            for _ in range(num_requests)
        ]
        num_tokens = sum(request.max_new_tokens for request in requests)
        batches = [
            requests[start : start + batch] for start in range(0, num_requests, batch)
        ]
        for part in (requests, *batches):
            pipeline.prepare(part)
        for _ in range(repeats):
            for method, parts in (("refilled", [requests]), ("fixed", batches)):
                started_s = time.perf_counter()
                for part in parts:
                    list(pipeline.serve(part))
                seconds[method].append(time.perf_counter() - started_s)
    rates = {name: num_tokens / median(spans) for name, spans in seconds.items()}
    ratios = [
        fixed / refilled
        for refilled, fixed in zip(seconds["refilled"], seconds["fixed"], strict=True)
    ]
    click.echo(
        f"| {model} | {bits} | {batch} | {num_requests} × {min_new_tokens}–{max_new_tokens} "
        f"| {rates['refilled']:.1f} | {rates['fixed']:.1f} | {median(ratios):.2f} |"
    )
    figures = {
        "model": model,
        "bits": int(bits),
        "batch": batch,
        "stages": stages,
        "requests": num_requests,
        "new_tokens": [min_new_tokens, max_new_tokens],
        "refilled_tokens_per_s": rates["refilled"],
        "fixed_tokens_per_s": rates["fixed"],
        "ratios": ratios,
        "kernels": kernel_path("cpu"),
        **provenance("tools.benchmarks.unequal"),
    }
    click.echo(json.dumps(figures))


if __name__ == "__main__":
    main()
