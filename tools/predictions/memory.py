"""Predicted memory of random stages, compared with the compiler's.

    python -m tools.predictions.memory --cases 50

A case is a family, a part of the model, bits, a tensor width, micro-batches and lengths,
drawn from a seed that is printed. Predictions use workspace measured at other shapes. The
compiler's figure is the larger program's arguments, outputs and temporary memory minus what
is aliased, plus the caches of the micro-batches that wait meanwhile. No weights are loaded
for it.
"""

from __future__ import annotations

import json
import random
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import jax

from llmpq_jax.costmodel.workspace import fit_workspace
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.precision import USUAL_BITS, Bits, HeadBits, KvBits
from llmpq_jax.schema.strategy import PrecisionChoice, Stage
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.stage.abstract import describe_stage, program_memories
from llmpq_jax.stage.sharding import StageSharding
from llmpq_jax.tasks.compile_cache import keep_compiled
from llmpq_jax.units import MIB
from tests.referees.stage_memory import stage_memory
from tools.predictions.configs import CONFIGS, architecture_of
from tools.predictions.memory_profile import KIND, LENGTHS, workspace_measurements
from tools.provenance import provenance

LARGE_BYTES = 64 * MIB
SMALL_SLACK_BYTES = 8 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomStage:
    """A stage, and the workload it serves."""

    family: str
    layers: tuple[int, int]
    bits: tuple[Bits, ...]
    head_bits: HeadBits
    kv_bits: KvBits
    tensor: int
    batch: int
    prompt_length: int
    new_tokens: int
    prefill: int
    decode: int
    chunk_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Bytes on each device: predicted, by the compiler, and of weights and caches alone."""

    predicted: int
    compiled: int
    held: int

    @property
    def is_within_bounds(self) -> bool:
        """Whether the prediction is 0 to 10 % above the compiler's, plus 8 MiB if small."""
        slack = 0 if self.held >= LARGE_BYTES else SMALL_SLACK_BYTES
        return self.compiled <= self.predicted <= 1.1 * self.compiled + slack


def draw_stage(generator: random.Random) -> RandomStage:
    """Draws a stage with shapes that were not measured."""
    family = generator.choice(list(CONFIGS))
    num_layers = architecture_of(family).num_layers
    first = generator.choice((0, 0, 2, 4))
    end = generator.choice((num_layers, generator.randint(first + 1, num_layers)))
    two_widths = generator.sample(USUAL_BITS, 2)
    rows, times = generator.choice((2, 3, 4, 5)), generator.choice((1, 1, 2, 3))
    prefill, decode = generator.choice(((rows, rows * times), (rows * times, rows)))
    measured = {length for pair in LENGTHS for length in pair}
    prompt = generator.randint(16, 900)
    new_tokens = generator.choice((1, generator.randint(2, 300)))
    while {bucket_length(prompt), bucket_length(prompt + new_tokens)} & measured:
        prompt = generator.randint(16, 900)
    return RandomStage(
        family=family,
        layers=(first, end),
        bits=tuple(generator.choice(two_widths) for _ in range(first, end)),
        head_bits=generator.choice((16, 8)),
        kv_bits=generator.choice((16, 16, 8)),
        tensor=generator.choice((1, 1, 2)),
        batch=generator.randint(1, 3) * max(prefill, decode),
        prompt_length=prompt,
        new_tokens=new_tokens,
        prefill=prefill,
        decode=decode,
        chunk_tokens=generator.choice((512, 512, 256)),
    )


def evaluate(stage: RandomStage) -> Outcome:
    """Predicts a stage's memory, and compiles it to compare."""
    architecture = architecture_of(stage.family)
    precision = PrecisionChoice(
        activations="float32", head_bits=stage.head_bits, kv_bits=stage.kv_bits
    )
    workload = Workload(
        batch=stage.batch,
        prompt_length=stage.prompt_length,
        new_tokens=stage.new_tokens,
    )
    micro_batch = MicroBatch(
        prefill=stage.prefill, decode=stage.decode, chunk_tokens=stage.chunk_tokens
    )
    measurements = workspace_measurements(
        stage.family, stage.bits, kv_bits=stage.kv_bits, tensor=stage.tensor
    )
    terms = stage_memory(
        architecture,
        kind=KIND,
        bits=stage.bits,
        is_first=stage.layers[0] == 0,
        is_last=stage.layers[1] == architecture.num_layers,
        workload=workload,
        micro_batch=micro_batch,
        precision=precision,
        workspace=fit_workspace(measurements, architecture, kv_bits=stage.kv_bits),
        tensor=stage.tensor,
    )
    program = describe_stage(
        architecture,
        Stage(device="node0/cpu:0", layers=stage.layers, bits=stage.bits),
        precision,
        StageSharding(tuple(jax.devices()[: stage.tensor])),
    )
    compiled = max(
        each.peak
        for each in program_memories(
            program,
            workload=workload,
            micro_batch=micro_batch,
        )
    )
    held = terms.weights + terms.kv_cache + terms.embedding + terms.head
    return Outcome(predicted=terms.total, compiled=compiled, held=held)


@click.command()
@click.option("--cases", type=int, default=50, help="Number of large stages.")
@click.option("--seed", type=int, default=None, help="Seed (default: a random one).")
def main(cases: int, seed: int | None) -> None:
    """Evaluates random stages; exits with 1 if one is out of bounds."""
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    click.echo(f"seed {seed}")
    generator = random.Random(seed)
    failed = large = 0
    ratios: list[float] = []
    while large < cases:
        stage = draw_stage(generator)
        outcome = evaluate(stage)
        ratio = outcome.predicted / outcome.compiled
        is_large = outcome.held >= LARGE_BYTES
        large += is_large
        ratios += [ratio] if is_large else []
        failed += not outcome.is_within_bounds
        verdict = "holds" if outcome.is_within_bounds else "FAILS"
        click.echo(
            f"{verdict} {ratio:.3f} {outcome.predicted / MIB:8.1f} of "
            f"{outcome.compiled / MIB:8.1f} MiB {'' if is_large else 'small '}{stage}"
        )
    click.echo(
        json.dumps(
            {
                "seed": seed,
                "large_cases": large,
                "outside": failed,
                "min_ratio": min(ratios),
                "mean_ratio": sum(ratios) / len(ratios),
                "largest_ratio": max(ratios),
                **provenance("tools.predictions.memory"),
            }
        )
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 2)
    keep_compiled(Path("build"))
    main()
