"""Compiles a stage from descriptions of its weights, and reports the memory it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import (
    TensorSpec,
    embedding_tensors,
    for_width,
    head_tensors,
    layer_tensors,
)
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.costmodel.memory import NUM_RECEIVE_BUFFERS, cache_rows
from llmpq_jax.schema.buckets import bucket_length, num_prefill_chunks
from llmpq_jax.schema.precision import Bits, HeadBits, VectorBits, WireBits
from llmpq_jax.schema.strategy import PrecisionChoice, Stage, Strategy
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.stage.build import build_module
from llmpq_jax.stage.compiled import Function, StageProgram
from llmpq_jax.stage.emulated_devices import JaxDevice
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import StageSharding


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramMemory:
    """Memory of a stage while one of its programs runs, in bytes on each device.

    Attributes:
        function: Function that was compiled.
        arguments: Bytes of weights, the program's caches and its inputs.
        outputs: Bytes of its outputs, the caches included.
        aliased: Bytes of outputs that reuse an argument's buffer.
        temporary: Bytes of temporary memory.
        waiting: Bytes of the caches of other micro-batches, which the program does not
            use.
        received: Bytes of hidden states that are received meanwhile.
    """

    function: Function
    arguments: int
    outputs: int
    aliased: int
    temporary: int
    waiting: int
    received: int

    @property
    def peak(self) -> int:
        """Bytes of the stage in all while the program runs."""
        program = self.arguments + self.outputs + self.temporary - self.aliased
        return program + self.waiting + self.received


def stage_memories(
    strategy: Strategy,
    architecture: Architecture,
    *,
    number: int,
    devices: tuple[JaxDevice, ...],
) -> tuple[ProgramMemory, ...]:
    """Compiles one stage of a strategy for its devices; returns each program's memory.

    Args:
        strategy: Strategy of all stages.
        architecture: Architecture of the model.
        number: Number of the stage in the pipeline, from 0.
        devices: JAX devices of the stage, in the order in which the stage names them.
    """
    precision = strategy.precision
    program = describe_stage(
        architecture,
        strategy.stages[number],
        precision,
        StageSharding(devices, group_size=precision.group_size),
        received_bits=strategy.received_bits(number),
    )
    return tuple(
        program_memories(
            program, workload=strategy.workload, micro_batch=strategy.micro_batch
        )
    )


def describe_stage(
    architecture: Architecture,
    stage: Stage,
    precision: PrecisionChoice,
    sharding: StageSharding,
    *,
    received_bits: WireBits = 16,
) -> StageProgram:
    """Makes a stage's program from descriptions of the weights that it would load.

    The weights are described as rounded here; those of a quantised checkpoint may have
    another layout.
    """
    weights = _TracedWeights(architecture, sharding)
    made: list[StageProgram] = []

    def make() -> list[jax.Array]:
        module = build_module(architecture, weights, sharding, stage, precision)
        made.append(
            StageProgram(
                module, sharding, kv_bits=precision.kv_bits, received_bits=received_bits
            )
        )
        return made[0].leaves

    described = jax.eval_shape(make)
    (program,) = made
    program.leaves = [
        leaf.update(sharding=weights.shardings[id(traced)])
        for leaf, traced in zip(described, program.leaves, strict=True)
    ]
    return program


class _TracedWeights:
    """Weights of a stage as arrays that JAX only traces; shardings are by their ids."""

    def __init__(self, architecture: Architecture, sharding: StageSharding) -> None:
        self._architecture = for_width(architecture, sharding.width)
        self._sharding = sharding
        self.shardings: dict[int, NamedSharding] = {}

    def embedding(self, bits: VectorBits) -> Weights:
        return self._trace(embedding_tensors(self._architecture), bits)

    def layer(self, layer: int, bits: Bits) -> Weights:
        del layer  # All layers of a model have the same shapes.
        return self._trace(layer_tensors(self._architecture), bits)

    def head(self, bits: HeadBits) -> Weights:
        return self._trace(head_tensors(self._architecture), bits)

    def _trace(self, specs: tuple[TensorSpec, ...], bits: Bits) -> Weights:
        weights: Weights = {}
        dtype = jnp.float32 if bits == 32 else jnp.bfloat16
        for spec in specs:
            drawn = jnp.zeros(spec.shape, dtype)
            weight, shardings = self._sharding.trace_weight(spec, drawn, bits)
            weights[spec.name] = weight
            leaves = jax.tree.leaves(weight)
            self.shardings.update(zip(map(id, leaves), shardings, strict=True))
        return weights


def program_memories(
    program: StageProgram, *, workload: Workload, micro_batch: MicroBatch
) -> Iterator[ProgramMemory]:
    """Compiles a stage, loaded or described, and yields each program's memory."""
    num_tokens = bucket_length(workload.prompt_length)
    num_slots = max(bucket_length(workload.context_length), num_tokens)
    num_chunks = num_prefill_chunks(num_tokens, micro_batch.chunk_tokens)
    prefill, decode = micro_batch.prefill, micro_batch.decode
    num_groups = max(1, prefill // decode)
    describe = program.sharding.describe
    cache = program.group_cache(decode, num_slots, is_described=True)

    def inputs(num_rows: int, num_tokens: int | None) -> jax.ShapeDtypeStruct:
        return describe(*program.input_shape(num_rows, num_tokens))

    def rows(num_rows: int) -> jax.ShapeDtypeStruct:
        packed = program.pack(np.zeros(num_rows, np.int32), greedy_rows(num_rows))
        return describe(packed.shape, packed.dtype)

    def memory(function: Function, arguments: Any, num_groups: int) -> ProgramMemory:
        waiting_rows = cache_rows(workload, micro_batch) - num_groups * decode
        waiting = waiting_rows * num_slots * program.slot_bytes
        return _memory(program, function, arguments, waiting)

    yield memory(
        "prefill" if num_chunks == 1 else "extend",
        (
            inputs(prefill, num_tokens // num_chunks),
            (cache,) * num_groups,
            describe(() if num_chunks == 1 else (2,), jnp.int32),
            rows(prefill),
        ),
        num_groups,
    )
    if workload.new_tokens == 1:
        return
    decoded = (inputs(decode, None), cache, rows(decode))
    if program.is_whole_model:
        yield memory("steps", (*decoded, describe((), jnp.int32)), 1)
    else:
        yield memory("decode", decoded, 1)


def _memory(
    program: StageProgram, function: Function, arguments: tuple[Any, ...], waiting: int
) -> ProgramMemory:
    compiled = program.compile(function, "tokens", arguments).memory_analysis()
    inputs = arguments[0]
    input_bytes = inputs.size * inputs.dtype.itemsize
    num_others = 0 if program.has_embedding else NUM_RECEIVE_BUFFERS - 1
    return ProgramMemory(
        function=function,
        arguments=compiled.argument_size_in_bytes,
        outputs=compiled.output_size_in_bytes,
        aliased=compiled.alias_size_in_bytes,
        temporary=compiled.temp_size_in_bytes,
        waiting=waiting,
        received=num_others * input_bytes,
    )
