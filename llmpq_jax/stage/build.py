"""Makes a stage's worker from a checkpoint: loads, quantises, places, wraps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from llmpq_jax.checkpoint.load import load_embedding, load_head, load_layer
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.rounded import RoundedWeights
from llmpq_jax.kernels import Weight
from llmpq_jax.model import DecoderLayer, Embedding, Head
from llmpq_jax.spec.architecture import Architecture
from llmpq_jax.spec.precision import Activations, KvBits, WireBits
from llmpq_jax.spec.strategy import PrecisionChoice, Stage
from llmpq_jax.spec.tensors import head_tensors, shard_for
from llmpq_jax.stage.devices import JaxDevice
from llmpq_jax.stage.module import StageModule
from llmpq_jax.stage.placement import TENSOR_AXIS, Placement
from llmpq_jax.stage.program import StageProgram
from llmpq_jax.stage.worker import StageWorker

DTYPES: dict[Activations, jnp.dtype] = {
    "float32": jnp.dtype(jnp.float32),
    "bfloat16": jnp.dtype(jnp.bfloat16),
    "float16": jnp.dtype(jnp.float16),
}


def build_worker(
    reader: CheckpointReader,
    architecture: Architecture,
    stage: Stage,
    precision: PrecisionChoice,
    *,
    number: int,
    devices: tuple[JaxDevice, ...],
    arriving_bits: WireBits,
    rounded: RoundedWeights | None = None,
    on_layer: Callable[[], None] = lambda: None,
) -> StageWorker:
    """Loads one stage of a strategy onto its devices, a layer at a time.

    Args:
        reader: Of the checkpoint.
        architecture: Of the model.
        stage: What it holds, and at which bits.
        precision: What holds for the whole model.
        number: Of the stage in the pipeline.
        devices: JAX's, one per device the stage names.
        arriving_bits: Of the hidden states that the stage before hands on.
        rounded: Where weights of few bits come from, if not from the checkpoint.
        on_layer: Called as each layer is there.
    """
    placement = Placement(devices, group_size=precision.group_size)
    dtype = DTYPES[precision.activations]
    first, end = stage.layers
    embedding = head = None
    if first == 0:
        weights = load_embedding(reader, architecture, place=placement.place_weight)
        embedding = Embedding(architecture, weights, dtype=dtype)
    layers = []
    for layer in range(first, end):
        weights = load_layer(
            reader,
            architecture,
            layer,
            bits=stage.bits[layer - first],
            rounded=rounded,
            place=placement.place_weight,
        )
        layers.append(
            build_layer(
                architecture, layer, weights, placement, kv_bits=precision.kv_bits
            )
        )
        on_layer()
    if end == architecture.num_layers:
        weights = load_head(
            reader,
            architecture,
            bits=precision.head_bits,
            rounded=rounded,
            place=placement.place_weight,
        )
        head = build_head(architecture, weights, placement)
    module = StageModule(
        architecture,
        embedding=embedding,
        layers=layers,
        head=head,
        dtype=dtype,
        wire_bits=stage.wire_bits,
    )
    return StageWorker(
        StageProgram(module, placement),
        stage=number,
        dtype=dtype,
        kv_bits=precision.kv_bits,
        arriving_bits=arriving_bits,
    )


def build_layer(
    architecture: Architecture,
    layer: int,
    weights: Mapping[str, Weight],
    placement: Placement,
    *,
    kv_bits: KvBits = 16,
) -> DecoderLayer:
    """Makes a layer of weights that lie on a placement."""
    axis = TENSOR_AXIS if placement.width > 1 else None
    return DecoderLayer(architecture, layer, weights, kv_bits=kv_bits, tensor_axis=axis)


def build_head(
    architecture: Architecture,
    weights: Mapping[str, Weight],
    placement: Placement,
) -> Head:
    """Makes a head of weights that lie on a placement."""
    vocabulary = head_tensors(architecture)[-1]
    is_cut = shard_for(vocabulary, placement.width) == "columns"
    return Head(architecture, weights, gather_over=TENSOR_AXIS if is_cut else None)
