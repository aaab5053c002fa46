"""A stage without its weights: to be compiled, and asked what memory it takes."""

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
    head_tensors,
    layer_tensors,
)
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.costmodel.memory import NUM_RECEIVED, cache_rows
from llmpq_jax.schema.buckets import bucket_length, num_prefill_chunks
from llmpq_jax.schema.precision import SCALE_BYTES, Bits, WireBits, kv_token_bytes
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.stage.build import DTYPES, assemble
from llmpq_jax.stage.compiled import Function, StageProgram
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import Placement


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramMemory:
    """What the compiler says of one program, in bytes on each device.

    Attributes:
        function: Which one.
        arguments: Weights, the caches it is given, and its inputs.
        outputs: Among them the caches again.
        aliased: Outputs that lie where an argument lay.
        temporary: Needed while it runs.
        waiting: Caches of the micro-batches that wait meanwhile; no program knows them.
        arriving: Hidden states that arrive meanwhile, which none knows either.
    """

    function: Function
    arguments: int
    outputs: int
    aliased: int
    temporary: int
    waiting: int
    arriving: int

    @property
    def peak(self) -> int:
        """All that the stage holds while it runs."""
        program = self.arguments + self.outputs + self.temporary - self.aliased
        return program + self.waiting + self.arriving


def describe_stage(
    architecture: Architecture,
    *,
    layers: tuple[int, int],
    bits: tuple[Bits, ...],
    precision: PrecisionChoice,
    placement: Placement,
    wire_bits: WireBits = 16,
) -> StageProgram:
    """Makes a stage's program of descriptions of weights, as `build.build_worker` would.

    Weights are taken to be rounded here; those of a quantised checkpoint may lie in
    memory another way.
    """
    made: list[StageProgram] = []
    shardings: dict[int, NamedSharding] = {}

    def weights(tensors: tuple[TensorSpec, ...], bits: Bits) -> Weights:
        traced: Weights = {}
        for tensor in tensors:
            kept_bits: Bits = bits if tensor.is_matrix else 16
            drawn = jnp.zeros(tensor.shape, jnp.bfloat16)
            weight, lie = placement.trace_weight(tensor, drawn, kept_bits)
            traced[tensor.name] = weight
            leaves = jax.tree.leaves(weight)
            shardings.update(zip(map(id, leaves), lie, strict=True))
        return traced

    def make() -> list[jax.Array]:
        """Builds the stage of arrays that JAX only traces."""
        module = assemble(
            architecture,
            layers=layers,
            bits=bits,
            precision=precision,
            placement=placement,
            wire_bits=wire_bits,
            embedding=lambda: weights(embedding_tensors(architecture), 16),
            layer=lambda _, bits: weights(layer_tensors(architecture), bits),
            head=lambda: weights(head_tensors(architecture), precision.head_bits),
        )
        made.append(StageProgram(module, placement))
        return made[0].leaves

    described = jax.eval_shape(make)
    (program,) = made
    program.hold(
        [
            leaf.update(sharding=shardings[id(traced)])
            for leaf, traced in zip(described, program.leaves, strict=True)
        ]
    )
    return program


def program_memories(
    program: StageProgram,
    *,
    workload: Workload,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    received_bits: WireBits = 16,
) -> Iterator[ProgramMemory]:
    """Compiles the programs that serve a workload, and asks what memory they take.

    Hidden states arrive at `received_bits`, as the stage before hands them on.
    """
    dtype = DTYPES[precision.activations]
    describe = program.placement.describe
    num_tokens = bucket_length(workload.prompt_length)
    num_slots = max(bucket_length(workload.context_length), num_tokens)
    num_chunks = num_prefill_chunks(num_tokens, micro_batch.chunk_tokens)
    prefill, decode = micro_batch.prefill, micro_batch.decode
    cache = tuple(
        program.placement.describe_cache(
            program.architecture,
            num_rows=decode,
            num_slots=num_slots,
            dtype=dtype,
            kv_bits=precision.kv_bits,
        )
        for _ in range(program.num_layers)
    )

    def packed(rows: int) -> jax.ShapeDtypeStruct:
        told = program.pack(np.zeros(rows, np.int32), greedy_rows(rows))
        return describe(told.shape, told.dtype)

    def inputs(rows: int, length: int) -> jax.ShapeDtypeStruct:
        if program.has_embedding:
            return describe((rows, length), jnp.int32)
        width = program.architecture.hidden_size
        if received_bits == 8:
            return describe((rows, length, width + SCALE_BYTES), jnp.int8)
        return describe((rows, length, width), dtype)

    def waiting(num_groups: int) -> int:
        rows = cache_rows(workload, micro_batch) - num_groups * decode
        row_bytes = kv_token_bytes(
            program.architecture.num_kv_heads // program.placement.width,
            program.architecture.head_dim,
            dtype.itemsize,
            kv_bits=precision.kv_bits,
        )
        return rows * num_slots * program.num_layers * row_bytes

    caches = (cache,) * max(1, prefill // decode)
    start = describe((), jnp.int32) if num_chunks == 1 else describe((2,), jnp.int32)
    arguments = (
        inputs(prefill, num_tokens // num_chunks),
        caches,
        start,
        packed(prefill),
    )
    function: Function = "prefill" if num_chunks == 1 else "extend"
    yield _account(program, function, arguments, waiting(len(caches)))
    if workload.new_tokens == 1:
        return
    tokens = inputs(decode, 1)
    if program.has_embedding:
        tokens = describe((decode,), jnp.int32)
    if program.takes_steps:
        steps = (tokens, cache, packed(decode), describe((), jnp.int32))
        yield _account(program, "steps", steps, waiting(1))
    else:
        yield _account(program, "decode", (tokens, cache, packed(decode)), waiting(1))


def _account(
    program: StageProgram,
    function: Function,
    arguments: tuple[Any, ...],
    waiting: int,
) -> ProgramMemory:
    said = program.compile(function, "tokens", arguments).memory_analysis()
    given = arguments[0]
    arriving = (NUM_RECEIVED - 1) * given.size * given.dtype.itemsize
    return ProgramMemory(
        function=function,
        arguments=said.argument_size_in_bytes,
        outputs=said.output_size_in_bytes,
        aliased=said.alias_size_in_bytes,
        temporary=said.temp_size_in_bytes,
        waiting=waiting,
        arriving=0 if program.has_embedding else arriving,
    )
