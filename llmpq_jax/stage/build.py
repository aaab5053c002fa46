"""Builds a stage's modules and its worker from weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import for_width, head_tensors, shard_for
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.checkpoint.weights_cache import WeightsCache
from llmpq_jax.kernels import Weight
from llmpq_jax.model import DecoderLayer, Embedding, Head
from llmpq_jax.schema.precision import Activations, KvBits, WireBits, vector_bits
from llmpq_jax.schema.strategy import PrecisionChoice, Stage
from llmpq_jax.stage.compiled import StageProgram
from llmpq_jax.stage.emulated_devices import JaxDevice
from llmpq_jax.stage.module import StageModule
from llmpq_jax.stage.sharding import TENSOR_AXIS, StageSharding
from llmpq_jax.stage.weights import CheckpointWeights, StageWeights
from llmpq_jax.stage.worker import StageWorker

DTYPES: dict[Activations, jnp.dtype] = {
    "float32": jnp.dtype(jnp.float32),
    "bfloat16": jnp.dtype(jnp.bfloat16),
    "float16": jnp.dtype(jnp.float16),
}


def build_worker(
    store: WeightStore,
    stage: Stage,
    precision: PrecisionChoice,
    *,
    number: int,
    devices: tuple[JaxDevice, ...],
    received_bits: WireBits,
    weights_cache: WeightsCache | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> StageWorker:
    """Loads one stage of a strategy onto its devices, a tensor at a time.

    Args:
        store: Weights of the model on the host.
        stage: Layers of the stage and their bits.
        precision: Precisions of the whole model.
        number: Number of the stage in the pipeline, from 0.
        devices: JAX devices of the stage, in the order in which the stage names them.
        received_bits: Bits of the hidden states that the stage receives.
        weights_cache: Cache of rounded weights; None to round them at every start.
        on_layer: Function that is called after each layer is loaded.
    """
    sharding = StageSharding(devices, group_size=precision.group_size)
    module = build_module(
        store.architecture,
        CheckpointWeights(store=store, sharding=sharding, cache=weights_cache),
        sharding,
        stage,
        precision,
        on_layer=on_layer,
    )
    return StageWorker(
        StageProgram(
            module, sharding, kv_bits=precision.kv_bits, received_bits=received_bits
        ),
        stage=number,
    )


def build_module(
    architecture: Architecture,
    weights: StageWeights,
    sharding: StageSharding,
    stage: Stage,
    precision: PrecisionChoice,
    *,
    on_layer: Callable[[], None] = lambda: None,
) -> StageModule:
    """Builds a stage's module, loading its weights layer by layer."""
    architecture = for_width(architecture, sharding.width)
    dtype = DTYPES[precision.activations]
    first, end = stage.layers
    embedding = head = None
    if first == 0:
        looked_up = weights.embedding(vector_bits(precision.head_bits))
        embedding = Embedding(architecture, looked_up, dtype=dtype)
    modules = []
    for number, layer_bits in enumerate(stage.bits, first):
        modules.append(
            build_layer(
                architecture,
                number,
                weights.layer(number, layer_bits),
                sharding,
                kv_bits=precision.kv_bits,
            )
        )
        on_layer()
    if end == architecture.num_layers:
        head = build_head(architecture, weights.head(precision.head_bits), sharding)
    return StageModule(
        architecture,
        embedding=embedding,
        layers=modules,
        head=head,
        dtype=dtype,
        wire_bits=stage.wire_bits,
    )


def build_layer(
    architecture: Architecture,
    layer: int,
    weights: Mapping[str, Weight],
    sharding: StageSharding,
    *,
    kv_bits: KvBits = 16,
) -> DecoderLayer:
    """Builds a decoder layer from weights that are on a stage's devices."""
    axis = TENSOR_AXIS if sharding.width > 1 else None
    return DecoderLayer(architecture, layer, weights, kv_bits=kv_bits, tensor_axis=axis)


def build_head(
    architecture: Architecture, weights: Mapping[str, Weight], sharding: StageSharding
) -> Head:
    """Builds the head from weights that are on a stage's devices."""
    vocabulary = head_tensors(architecture)[-1]
    is_cut = shard_for(vocabulary, sharding.width) == "columns"
    return Head(architecture, weights, gather_over=TENSOR_AXIS if is_cut else None)
