"""Predicted memory of random stages beside what the compiler says of them.

    python -m tools.predictions.memory --cases 50

A case is a family, a part of the model, bits, a tensor width, micro-batches and lengths,
drawn from a seed that is printed. What the prediction is made of is profiled at other
shapes. The compiler's figure is the larger program's arguments, outputs and temporary
memory less what is aliased, and the caches of the micro-batches that wait meanwhile.
No weights are loaded for it.
"""

from __future__ import annotations

import datetime
import json
import random
import secrets
import sys
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import jax

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.families import read_architecture
from llmpq_jax.costmodel.latency import Part
from llmpq_jax.costmodel.workspace import fit_workspace
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.profiler.stage_bench import StageBench
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.measurements import (
    EndTime,
    LayerTime,
    MeasuredKind,
    Measurements,
    Phase,
)
from llmpq_jax.schema.precision import ALL_BITS, Bits, HeadBits, KvBits
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.stage.abstract import describe_stage, program_memories
from llmpq_jax.stage.sharding import Placement
from llmpq_jax.tasks.compile_cache import keep_compiled
from llmpq_jax.units import MIB
from tests.referees.stage_memory import stage_memory
from tools.provenance import provenance

_KIND = "here"
_THIS_KIND = MeasuredKind(
    kind=_KIND,
    device="this machine's processor",
    platform="cpu",
    jax_version=jax.__version__,
    kernel_path="asked of the compiler",
    date=datetime.datetime.now(datetime.UTC).date().isoformat(),
)
_PROFILED_ROWS = (1, 6)
_PROFILED_LENGTHS = ((32, 64), (448, 512), (640, 704), (1024, 1280), (1024, 2048))
_STACKED = 2
_PHASES: tuple[Phase, ...] = ("prefill", "decode")
LARGE_BYTES = 64 * MIB
SMALL_SLACK_BYTES = 8 * MIB


def _llama_like(kind: str, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "architectures": [name],
        "vocab_size": 32_000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 10,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 4096,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    } | changes


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _llama_like("llama", "LlamaForCausalLM"),
    "qwen2": _llama_like(
        "qwen2", "Qwen2ForCausalLM", hidden_size=896, intermediate_size=4864,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "qwen3": _llama_like(
        "qwen3", "Qwen3ForCausalLM", num_key_value_heads=8, head_dim=128
    ),
    "opt": {
        "model_type": "opt",
        "architectures": ["OPTForCausalLM"],
        "vocab_size": 50_272,
        "hidden_size": 1024,
        "ffn_dim": 4096,
        "num_hidden_layers": 10,
        "num_attention_heads": 16,
        "max_position_embeddings": 2048,
        "word_embed_proj_dim": 1024,
        "do_layer_norm_before": True,
        "activation_function": "relu",
    },
    "bloom": {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "vocab_size": 50_176,
        "hidden_size": 1024,
        "n_layer": 10,
        "n_head": 16,
        "layer_norm_epsilon": 1e-5,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One stage and what it serves."""

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
    """Bytes on each device, predicted and as the compiler says."""

    predicted: int
    compiled: int
    held: int

    @property
    def holds(self) -> bool:
        """Never below, and at most a tenth above; 8 MiB more for small stages."""
        slack = 0 if self.held >= LARGE_BYTES else SMALL_SLACK_BYTES
        return self.compiled <= self.predicted <= 1.1 * self.compiled + slack


def draw_case(generator: random.Random) -> Case:
    """Draws a stage at shapes that were not profiled."""
    family = generator.choice(list(CONFIGS))
    num_layers = architecture_of(family).num_layers
    first = generator.choice((0, 0, 2, 4))
    end = generator.choice((num_layers, generator.randint(first + 1, num_layers)))
    few = generator.sample(ALL_BITS, 2)
    rows, times = generator.choice((2, 3, 4, 5)), generator.choice((1, 1, 2, 3))
    prefill, decode = generator.choice(((rows, rows * times), (rows * times, rows)))
    profiled = {length for pair in _PROFILED_LENGTHS for length in pair}
    prompt = generator.randint(16, 900)
    new_tokens = generator.choice((1, generator.randint(2, 300)))
    while {bucket_length(prompt), bucket_length(prompt + new_tokens)} & profiled:
        prompt = generator.randint(16, 900)
    return Case(
        family=family,
        layers=(first, end),
        bits=tuple(generator.choice(few) for _ in range(first, end)),
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


def judge(case: Case) -> Outcome:
    """Predicts a stage's memory, and asks the compiler."""
    architecture = architecture_of(case.family)
    precision = PrecisionChoice(
        activations="float32", head_bits=case.head_bits, kv_bits=case.kv_bits
    )
    workload = Workload(
        batch=case.batch,
        prompt_length=case.prompt_length,
        new_tokens=case.new_tokens,
    )
    micro_batch = MicroBatch(
        prefill=case.prefill, decode=case.decode, chunk_tokens=case.chunk_tokens
    )
    ends = _ends(case.family)
    layers = [
        row
        for bits in sorted(set(case.bits))
        for row in _layers(case.family, bits, case.kv_bits, case.tensor)
    ]
    terms = stage_memory(
        architecture,
        kind=_KIND,
        bits=case.bits,
        is_first=case.layers[0] == 0,
        is_last=case.layers[1] == architecture.num_layers,
        workload=workload,
        micro_batch=micro_batch,
        precision=precision,
        workspace=fit_workspace(
            _measurements(tuple(layers), ends), architecture, kv_bits=case.kv_bits
        ),
        tensor=case.tensor,
    )
    program = describe_stage(
        architecture,
        layers=case.layers,
        bits=case.bits,
        precision=precision,
        placement=Placement(tuple(jax.devices()[: case.tensor])),
    )
    compiled = max(
        account.peak
        for account in program_memories(
            program, workload=workload, micro_batch=micro_batch, precision=precision
        )
    )
    held = terms.weights + terms.kv_cache + terms.embedding + terms.head
    return Outcome(predicted=terms.total, compiled=compiled, held=held)


@cache
def architecture_of(family: str) -> Architecture:
    """Reads one of `CONFIGS`."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIGS[family]))
        return read_architecture(Path(folder))


@cache
def _layers(
    family: str, bits: Bits, kv_bits: KvBits, tensor: int
) -> tuple[LayerTime, ...]:
    bench = StageBench(
        architecture_of(family),
        *jax.devices()[:tensor],
        activations="float32",
        group_size=128,
        num_layers=_STACKED,
        bits=bits,
        kv_bits=kv_bits,
    )
    shapes = [
        Shape(rows=rows, num_tokens=tokens, num_slots=slots)
        for rows in _PROFILED_ROWS
        for tokens, slots in _PROFILED_LENGTHS
    ]
    bench.compile((phase, shape) for phase in _PHASES for shape in shapes)
    return tuple(
        LayerTime(
            kind=_KIND,
            phase=phase,
            bits=bits,
            tensor=tensor,
            kv_bits=kv_bits,
            batch=shape.rows,
            length=shape.num_tokens if phase == "prefill" else shape.num_slots,
            slots=shape.num_slots
            if phase == "prefill" and shape.num_chunks > 1
            else None,
            seconds=1.0,
            spread=0.0,
            workspace_bytes=bench.workspace_bytes(phase, shape),
        )
        for phase in _PHASES
        for shape in shapes
    )


@cache
def _ends(family: str) -> tuple[EndTime, ...]:
    rows: list[EndTime] = []
    make = partial(
        StageBench,
        architecture_of(family),
        jax.devices()[0],
        activations="float32",
        group_size=128,
    )
    heads: tuple[HeadBits, ...] = (16, 8)
    benches: list[tuple[Part, HeadBits, StageBench, tuple[int, ...]]] = []
    benches.append(("embedding", 16, make(has_embedding=True), (1, 6 * 448)))
    benches.extend(
        ("head", bits, make(bits=bits, has_head=True), (1, 6)) for bits in heads
    )
    for part, bits, bench, sizes in benches:
        for size in sizes:
            shape = Shape(rows=size, num_tokens=1, num_slots=1)
            rows.append(
                EndTime(
                    kind=_KIND,
                    part=part,
                    bits=bits,
                    rows=size,
                    seconds=1.0,
                    spread=0.0,
                    workspace_bytes=bench.workspace_bytes("prefill", shape),
                )
            )
    return tuple(rows)


def _measurements(
    layers: tuple[LayerTime, ...], ends: tuple[EndTime, ...]
) -> Measurements:
    return Measurements(
        model="random",
        layer_shape="any",
        activations="float32",
        group_size=128,
        kinds=(_THIS_KIND,),
        layers=layers,
        ends=ends,
    )


@click.command()
@click.option("--cases", type=int, default=50)
@click.option("--seed", type=int, default=None, help="By default a fresh one.")
def main(cases: int, seed: int | None) -> None:
    """Judges random cases; ends with 1 where one is outside the promise."""
    seed = secrets.randbelow(1 << 31) if seed is None else seed
    click.echo(f"seed {seed}")
    generator = random.Random(seed)
    failed = large = 0
    ratios: list[float] = []
    while large < cases:
        case = draw_case(generator)
        outcome = judge(case)
        ratio = outcome.predicted / outcome.compiled
        is_large = outcome.held >= LARGE_BYTES
        large += is_large
        ratios += [ratio] if is_large else []
        failed += not outcome.holds
        verdict = "holds" if outcome.holds else "FAILS"
        click.echo(
            f"{verdict} {ratio:.3f} {outcome.predicted / MIB:8.1f} of "
            f"{outcome.compiled / MIB:8.1f} MiB {'' if is_large else 'small '}{case}"
        )
    click.echo(
        json.dumps(
            {
                "seed": seed,
                "large_cases": large,
                "outside": failed,
                "least_ratio": min(ratios),
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
