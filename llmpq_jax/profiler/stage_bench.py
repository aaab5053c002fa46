"""A stage of random weights, driven as the engine drives it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import (
    TensorSpec,
    embedding_tensors,
    for_width,
    head_tensors,
    layer_tensors,
)
from llmpq_jax.checkpoint.host_tensor import HostTensor
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.model import Embedding
from llmpq_jax.profiler.grid import Shape
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.precision import Activations, Bits, KvBits, vector_bits
from llmpq_jax.stage.build import DTYPES, build_head, build_layer
from llmpq_jax.stage.compiled import Function, OutputKind, StageProgram
from llmpq_jax.stage.emulated_devices import JaxDevice
from llmpq_jax.stage.message import Message
from llmpq_jax.stage.module import StageModule
from llmpq_jax.stage.sampling import greedy_rows
from llmpq_jax.stage.sharding import StageSharding
from llmpq_jax.stage.worker import StageWorker

_DRAWN_ELEMENTS = 1 << 20
# Calls rotate through this many bytes of weights: more than processors keep in cache.
_CACHED_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class StageContents:
    """What a stage to be timed holds: some layers, the embedding, the head, or nothing.

    Attributes:
        num_layers: Number of decoder layers.
        bits: Bit width of all matrices; the embedding has 16 bits next to quantised ones.
        has_embedding: Whether the stage holds the embedding.
        has_head: Whether the stage holds the head.
    """

    num_layers: int = 0
    bits: Bits = 16
    has_embedding: bool = False
    has_head: bool = False


class _RotatingProgram(StageProgram):
    """A stage program whose calls rotate through several copies of its weights.

    If calls used one copy, small layers would find their weights in the processor's
    cache, where those of a whole model have no room.
    """

    _copies: Iterator[list[jax.Array]] | None = None

    def rotate(self, num_copies: int) -> None:
        """Copies the weights, and uses the next copy in each call from now on."""
        own = self.leaves
        others = [[jnp.copy(leaf) for leaf in own] for _ in range(num_copies - 1)]
        self._copies = cycle([own, *others])

    def run(
        self, function: Function, output: OutputKind, arguments: tuple[Any, ...]
    ) -> Any:
        if self._copies is not None:
            self.leaves = next(self._copies)
        return super().run(function, output, arguments)


class StageBench:
    """A stage of random weights to time.

    Attributes:
        architecture: Architecture of the model.
        dtype: Type of activations.
        worker: Worker of the stage, as the engine drives it.
    """

    def __init__(
        self,
        architecture: Architecture,
        devices: Sequence[JaxDevice],
        contents: StageContents,
        *,
        activations: Activations,
        group_size: int = 128,
        kv_bits: KvBits = 16,
    ) -> None:
        """Draws the weights and places them on the devices that the stage is split over."""
        self.architecture = architecture
        self.dtype = DTYPES[activations]
        sharding = StageSharding(tuple(devices), group_size=group_size)
        program = _RotatingProgram(
            _random_module(
                architecture, contents, sharding, dtype=self.dtype, kv_bits=kv_bits
            ),
            sharding,
            kv_bits=kv_bits,
        )
        if contents.num_layers:
            # As many as the model has of such a stage, or fill the largest caches.
            in_model = ceil(architecture.num_layers / contents.num_layers)
            filling = ceil(_CACHED_BYTES / program.weight_bytes)
            program.rotate(min(in_model, filling))
        self.worker = StageWorker(program, stage=0)

    def compile(self, wanted: Iterable[tuple[Phase, Shape]]) -> None:
        """Compiles phases and shapes in parallel, which is what takes longest.

        What cannot be compiled is skipped here and raises when it is called.
        """

        def compile_one(item: tuple[Phase, Shape]) -> None:
            with suppress(jax.errors.JaxRuntimeError):
                self._executable(*item)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(compile_one, wanted))

    def workspace_bytes(self, phase: Phase, shape: Shape) -> int:
        """Returns the temporary memory of the compiled stage, in bytes."""
        return self._executable(phase, shape).memory_analysis().temp_size_in_bytes

    def call(self, phase: Phase, shape: Shape) -> Callable[[], None]:
        """Returns a call that runs one micro-batch and waits until it is done.

        It allocates the cache again, so earlier calls that were returned become invalid.
        """
        return partial(self._process, self.messages(phase, shape))

    def messages(self, phase: Phase, shape: Shape) -> list[Message]:
        """Returns one micro-batch as the engine sends it, and allocates its cache.

        Long prompts are split into chunks as the runtime splits them.
        """
        worker = self.worker
        worker.allocate(num_groups=1, num_rows=shape.rows, num_slots=shape.num_slots)
        length = shape.num_tokens if phase == "prefill" else shape.num_slots - 1
        num_chunks = shape.num_chunks if phase == "prefill" else 1
        chunk_tokens = shape.num_tokens // num_chunks
        payload = worker.sharding.put(self._payload(phase, shape))
        return [
            Message(
                phase=phase,
                micro_batch=0,
                step=step,
                groups=(0,),
                payload=payload,
                slot_B=np.full(shape.rows, length, np.int32),
                sampling=greedy_rows(shape.rows),
                num_chunks=num_chunks,
                chunk_tokens=chunk_tokens,
                first_position=None if num_chunks == 1 else step * chunk_tokens,
            )
            for step in range(num_chunks)
        ]

    def free(self) -> None:
        """Frees the cache."""
        self.worker.free()

    def _process(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.worker.process(message, 0.0)
        self.worker.take_events()

    def _payload(self, phase: Phase, shape: Shape) -> np.ndarray:
        generator = np.random.default_rng(0)
        is_prefill = phase == "prefill"
        num_tokens = shape.num_tokens // shape.num_chunks if is_prefill else None
        size, dtype = self.worker.program.input_shape(shape.rows, num_tokens)
        if dtype == jnp.int32:
            vocabulary = self.architecture.vocabulary_size
            return generator.integers(0, vocabulary, size, dtype=np.int32)
        return generator.standard_normal(size, np.float32).astype(dtype)

    def _executable(self, phase: Phase, shape: Shape) -> Any:
        """Compiles one phase for one shape, once."""
        worker = self.worker
        describe = worker.sharding.describe
        payload = self._payload(phase, shape)
        inputs = describe(payload.shape, payload.dtype)
        packed = worker.program.pack(
            np.zeros(shape.rows, np.int32), greedy_rows(shape.rows)
        )
        rows = describe(packed.shape, packed.dtype)
        cache = worker.program.group_cache(
            shape.rows, shape.num_slots, is_described=True
        )
        compile_for = worker.program.compile
        if phase == "decode":
            return compile_for("decode", "tokens", (inputs, cache, rows))
        if shape.num_chunks == 1:
            row = describe((), jnp.int32)
            return compile_for("prefill", "tokens", (inputs, (cache,), row, rows))
        start = describe((2,), jnp.int32)
        return compile_for("extend", "tokens", (inputs, (cache,), start, rows))


def _random_module(
    architecture: Architecture,
    contents: StageContents,
    sharding: StageSharding,
    *,
    dtype: jnp.dtype,
    kv_bits: KvBits,
) -> StageModule:
    def draw(tensors: Iterable[TensorSpec], bits: Bits) -> Weights:
        return sharding.put_weights(
            HostTensor.of(tensor, random_weight(tensor), bits=bits)
            for tensor in tensors
        )

    architecture = for_width(architecture, sharding.width)
    embedding = head = None
    if contents.has_embedding:
        weights = draw(embedding_tensors(architecture), vector_bits(contents.bits))
        embedding = Embedding(architecture, weights, dtype=dtype)
    layers = []
    for layer in range(contents.num_layers):
        weights = draw(layer_tensors(architecture), contents.bits)
        made = build_layer(architecture, layer, weights, sharding, kv_bits=kv_bits)
        layers.append(made)
    if contents.has_head:
        weights = draw(head_tensors(architecture), contents.bits)
        head = build_head(architecture, weights, sharding)
    return StageModule(
        architecture, embedding=embedding, layers=layers, head=head, dtype=dtype
    )


def random_weight(tensor: TensorSpec) -> np.ndarray:
    """Returns a weight whose values differ and have a trained weight's magnitude."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal(_DRAWN_ELEMENTS, np.float32)
    if tensor.is_matrix:
        noise *= tensor.shape[0] ** -0.5
    values = noise.astype(ml_dtypes.bfloat16)
    # Drawing a large model's layer would take longer than timing it.
    return np.resize(values, tensor.shape)
