"""Measures what pipelining costs: two emulated devices against one on the same cores.

    python -m tools.benchmarks.stages --bits 8 --batch 1 --batch 8 --batch 32

It measures the model, plans two stages of it with the planner's own micro-batches, and runs
them in turns with one stage on the same cores. Two stages can at best be as fast as one: at
batch 1 they take turns, and each micro-batch reads all weights again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import click

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.kernels import kernel_path
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.profiler import ProfileOptions, profile
from llmpq_jax.profiler.grid import grid_for
from llmpq_jax.runtime import Pipeline
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.schema.precision import Activations, Bits
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.sensitivity.weight_variance import weight_variance
from tools.benchmarks.models import (
    CONFIGS,
    even_strategy,
    random_model,
    random_requests,
)
from tools.benchmarks.throughput import read_bandwidth
from tools.provenance import provenance


@click.command()
@click.option("--model", type=click.Choice(list(CONFIGS)), default="llama-250m")
@click.option("--models", type=click.Path(path_type=Path), default=Path("build/models"))
@click.option("--bits", type=click.Choice(["4", "8", "16"]), default="8")
@click.option("--activations", default="float32")
@click.option("--batch", "batches", type=int, multiple=True, default=(1, 8, 32))
@click.option("--prompt", type=int, default=128)
@click.option("--new-tokens", type=int, default=128)
@click.option("--repeats", type=int, default=3)
def main(
    model: str,
    models: Path,
    bits: str,
    activations: str,
    batches: tuple[int, ...],
    prompt: int,
    new_tokens: int,
    repeats: int,
) -> None:
    """Compares two stages with one."""
    folder = random_model(model, models)
    rows = []
    for batch in batches:
        one = even_strategy(
            folder,
            bits=cast("Bits", int(bits)),
            head_bits=8,
            num_stages=1,
            batch=batch,
            prefill=batch,
            decode=batch,
            prompt_length=prompt,
            new_tokens=new_tokens,
            activations=cast("Activations", activations),
        )
        rows.append(_compare(folder, one, _planned(folder, one), repeats))
        row = rows[-1]
        click.echo(
            f"| int{bits} | {batch} | {row['micro_batch']} | {row['layers']} "
            f"| {row['one_tokens_per_s']:.1f} | {row['two_tokens_per_s']:.1f} "
            f"| {row['ratio']:.2f} | {row['floor_share']:.0%} | {row['idle_share']} |"
        )
    click.echo(
        json.dumps(
            {
                "model": model,
                "bits": int(bits),
                "activations": activations,
                "prompt": prompt,
                "new_tokens": new_tokens,
                "batches": rows,
                "read_gb_per_s": read_bandwidth() / 1e9,
                "kernels": kernel_path("cpu"),
                **provenance("tools.benchmarks.stages"),
            }
        )
    )


def _planned(folder: Path, one: Strategy) -> Strategy:
    """Plans two stages for the workload of one."""
    devices = tuple(
        Device(
            name=f"cpu:{number}",
            kind="cpu-emulated",
            platform="cpu",
            memory_bytes=8 << 30,
            use="always",
        )
        for number in range(2)
    )
    cluster = Cluster(name="two", nodes=(Node(name="node0", devices=devices),))
    (bits,) = set(one.stages[0].bits)
    measurements = profile(
        folder,
        cluster,
        ProfileOptions(
            activations=one.precision.activations,
            bits=(bits,),
            grid=grid_for(one.workload),
        ),
    )
    strategy = plan(
        PlanRequest(
            architecture=read_architecture(folder),
            model=one.model,
            cluster=cluster,
            measurements=measurements,
            sensitivity=weight_variance(folder),
            workload=one.workload,
            activations=one.precision.activations,
            bits=(bits,),
            head_bits=(8,),
            omega_budget=float(1 << 30),
        )
    )
    return replace(strategy, provenance=None)


def _compare(
    folder: Path, one: Strategy, two: Strategy, repeats: int
) -> dict[str, Any]:
    workload = one.workload
    requests = random_requests(
        folder,
        num_requests=workload.batch,
        prompt_length=workload.prompt_length,
        new_tokens=workload.new_tokens,
    )
    with Pipeline.load(two) as of_two, Pipeline.load(one) as of_one:
        for pipeline in (of_two, of_one):
            pipeline.prepare(requests)
        for _ in range(repeats):
            for pipeline in (of_two, of_one):
                list(pipeline.serve(requests))
        ones, twos = of_one.batches, of_two.batches
        weight_bytes = of_one.weight_bytes[0]
    num_micro_batches = -(-workload.batch // two.micro_batch.decode)
    num_tokens = workload.batch * workload.new_tokens
    step_s = median(record.decode_s for record in twos) / (workload.new_tokens - 1)
    floor_s = num_micro_batches * weight_bytes / read_bandwidth()
    return {
        "batch": workload.batch,
        "micro_batch": [two.micro_batch.prefill, two.micro_batch.decode],
        "layers": [list(stage.layers) for stage in two.stages],
        "one_tokens_per_s": median(num_tokens / record.latency_s for record in ones),
        "two_tokens_per_s": median(num_tokens / record.latency_s for record in twos),
        # Ratios of consecutive runs, because the machine's speed drifts.
        "ratio": median(
            a.latency_s / b.latency_s for a, b in zip(ones, twos, strict=True)
        ),
        "floor_share": floor_s / step_s,
        "idle_share": [
            round(stage.idle_s / twos[-1].latency_s, 3) for stage in twos[-1].stages
        ],
    }


if __name__ == "__main__":
    main()
