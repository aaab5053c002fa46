"""Makes a stage's worker from a checkpoint: loads, quantises, places, wraps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import head_tensors, layer_tensors, shard_for
from llmpq_jax.checkpoint.calibrated import RoundedWeights
from llmpq_jax.checkpoint.load import (
    Weights,
    load_embedding,
    load_head,
    load_layer,
)
from llmpq_jax.checkpoint.reader import CheckpointReader
from llmpq_jax.checkpoint.weights_cache import WeightsCache, part_key, source_key
from llmpq_jax.kernels import Weight
from llmpq_jax.model import DecoderLayer, Embedding, Head
from llmpq_jax.schema.precision import Activations, Bits, KvBits, WireBits
from llmpq_jax.schema.strategy import PrecisionChoice, Stage
from llmpq_jax.stage.compiled import StageProgram
from llmpq_jax.stage.emulated_devices import JaxDevice
from llmpq_jax.stage.module import StageModule
from llmpq_jax.stage.sharding import TENSOR_AXIS, Placement
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
    received_bits: WireBits,
    rounded: RoundedWeights | None = None,
    weights_cache: WeightsCache | None = None,
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
        received_bits: Of the hidden states that the stage before hands on.
        rounded: Where weights of few bits come from, if not from the checkpoint.
        weights_cache: Where what is rounded here is kept for the next start, if anywhere.
        on_layer: Called as each layer is there.
    """
    placement = Placement(devices, group_size=precision.group_size)
    place = placement.place_weight
    # Weights that were rounded before they came here are read as quickly as kept ones.
    keeps = weights_cache is not None and rounded is None
    source = source_key(reader) if keeps else None

    def kept(
        part: int | Literal["head"], bits: Bits, make: Callable[[], Weights]
    ) -> Weights:
        if weights_cache is None or source is None or bits == 16:
            return make()
        of_part = head_tensors if part == "head" else layer_tensors
        tensors = {tensor.name: tensor for tensor in of_part(architecture)}
        return weights_cache.weights(
            part_key(
                source,
                part,
                bits=bits,
                group_size=precision.group_size,
                devices=devices,
            ),
            make=make,
            put=lambda name, leaf, in_panels: placement.put_leaf(
                tensors[name], leaf, in_panels=in_panels
            ),
        )

    def layer_weights(layer: int, bits: Bits) -> Weights:
        def make() -> Weights:
            return load_layer(
                reader, architecture, layer, bits=bits, rounded=rounded, place=place
            )

        return kept(layer, bits, make)

    def head_weights() -> Weights:
        bits = precision.head_bits

        def make() -> Weights:
            return load_head(
                reader, architecture, bits=bits, rounded=rounded, place=place
            )

        return kept("head", bits, make)

    module = assemble(
        architecture,
        layers=stage.layers,
        bits=stage.bits,
        precision=precision,
        placement=placement,
        wire_bits=stage.wire_bits,
        embedding=lambda: load_embedding(reader, architecture, place=place),
        layer=layer_weights,
        head=head_weights,
        on_layer=on_layer,
    )
    return StageWorker(
        StageProgram(module, placement),
        stage=number,
        dtype=module.dtype,
        kv_bits=precision.kv_bits,
        received_bits=received_bits,
    )


def assemble(
    architecture: Architecture,
    *,
    layers: tuple[int, int],
    bits: tuple[Bits, ...],
    precision: PrecisionChoice,
    placement: Placement,
    wire_bits: WireBits,
    embedding: Callable[[], Weights],
    layer: Callable[[int, Bits], Weights],
    head: Callable[[], Weights],
    on_layer: Callable[[], None] = lambda: None,
) -> StageModule:
    """Makes a stage's module of weights that are asked for part by part.

    Args:
        architecture: Of the model.
        layers: From, up to but without.
        bits: Of each.
        precision: What holds for the whole model.
        placement: Where the weights lie.
        wire_bits: Of the hidden states it hands on.
        embedding: Gives the weights before the layers; asked of a first stage.
        layer: Gives those of one layer, by its number and bits.
        head: Gives those after the layers; asked of a last stage.
        on_layer: Called as each layer is there.
    """
    dtype = DTYPES[precision.activations]
    first, end = layers
    front = Embedding(architecture, embedding(), dtype=dtype) if first == 0 else None
    made = []
    for number, layer_bits in enumerate(bits, first):
        weights = layer(number, layer_bits)
        made.append(
            build_layer(
                architecture, number, weights, placement, kv_bits=precision.kv_bits
            )
        )
        on_layer()
    is_last = end == architecture.num_layers
    return StageModule(
        architecture,
        embedding=front,
        layers=made,
        head=build_head(architecture, head(), placement) if is_last else None,
        dtype=dtype,
        wire_bits=wire_bits,
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
