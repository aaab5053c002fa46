"""Runs a model with one layer at a time on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from llmpq_jax.arch.fingerprint import model_fingerprint
from llmpq_jax.checkpoint.checkpoint_tensors import CheckpointTensors
from llmpq_jax.checkpoint.load import Weights
from llmpq_jax.checkpoint.store import WeightStore
from llmpq_jax.checkpoint.validate import check_checkpoint
from llmpq_jax.interrupts import check_interrupt
from llmpq_jax.model import Embedding, fresh_context
from llmpq_jax.quant import round_rows
from llmpq_jax.schema.precision import Activations, Bits, HeadBits, KvBits, VectorBits
from llmpq_jax.stage.build import build_head, build_layer
from llmpq_jax.stage.sharding import StageSharding

Hidden = Float[np.ndarray, "W T D"]
# Larger batches would not be faster.
_MAX_BATCH_TOKENS = 4096


class StreamedModel:
    """Runs a checkpoint layer by layer over windows of text.

    Layers are quantised, laid out and multiplied as stages serve them. Hidden states are
    float32 arrays between layers, computed in the type that is asked for.
    """

    def __init__(
        self, folder: Path, *, group_size: int = 128, rounds_unquantized: bool = False
    ) -> None:
        """Reads the checkpoint's headers; no weights yet.

        With `rounds_unquantized`, matrices that a quantised checkpoint keeps unquantised
        are rounded.

        Raises:
            CheckpointError: If a tensor is missing, damaged, or of another shape.
            UnsupportedModelError: If the model is not implemented.
        """
        self.folder = folder
        stored = CheckpointTensors.open(folder, rounds_unquantized=rounds_unquantized)
        check_checkpoint(stored)
        self.architecture = stored.architecture
        self.store = WeightStore(stored)
        self.fingerprint = model_fingerprint(folder)
        self.group_size = group_size
        self.sharding = StageSharding((jax.devices()[0],), group_size=group_size)

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""
        return self.architecture.num_layers

    def embed(
        self,
        tokens_WT: Int[np.ndarray, "W T"],
        *,
        bits: VectorBits = 16,
        activations: Activations = "float32",
    ) -> Hidden:
        """Returns the hidden states before the first layer."""
        weights = self.sharding.put_weights(self.store.embedding(bits=bits))
        dtype = jnp.dtype(activations)
        embedding = Embedding(self.architecture, weights, dtype=dtype)
        graph, state = nnx.split(embedding)

        def run(tokens: np.ndarray) -> jax.Array:
            positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
            return _apply(
                graph, state, jnp.asarray(tokens), jnp.asarray(positions)
            ).astype(jnp.float32)

        return _in_batches(run, tokens_WT)

    def forward(
        self,
        tokens_WT: Int[np.ndarray, "W T"],
        *,
        on_layer: Callable[[], None] = lambda: None,
    ) -> Hidden:
        """Returns the hidden states after the last layer, with all layers at 16 bits."""
        hidden = self.embed(tokens_WT)
        for layer in range(self.num_layers):
            hidden = self.layer(layer, self.layer_weights(layer, 16))(hidden)
            on_layer()
        return hidden

    def layer_weights(self, layer: int, bits: Bits) -> Weights:
        """Loads a layer as stages serve it."""
        return self.sharding.put_weights(self.store.layer(layer, bits=bits))

    def layer(
        self,
        layer: int,
        weights: Weights,
        *,
        kv_bits: KvBits = 16,
        activations: Activations = "float32",
    ) -> Callable[[Hidden], Hidden]:
        """Returns a function that applies a layer to hidden states."""
        dtype = jnp.dtype(activations)
        module = build_layer(
            self.architecture, layer, weights, self.sharding, kv_bits=kv_bits
        )
        graph, state = nnx.split(module)

        def run(hidden: np.ndarray) -> jax.Array:
            served = jnp.asarray(hidden, dtype)
            return _layer(graph, self.architecture, state, served).astype(jnp.float32)

        return partial(_in_batches, run)

    def head(
        self, bits: HeadBits = 16, *, activations: Activations = "float32"
    ) -> Callable[[np.ndarray], jax.Array]:
        """Returns a function from a batch of hidden states to float32 logits [.., V]."""
        dtype = jnp.dtype(activations)
        weights = self.sharding.put_weights(self.store.head(bits=bits))
        graph, state = nnx.split(build_head(self.architecture, weights, self.sharding))
        return lambda hidden: _apply(graph, state, jnp.asarray(hidden, dtype))


def round_wire(hidden: Hidden) -> Hidden:
    """Returns hidden states rounded to int8 with a scale for each token."""
    return _in_batches(_round_wire, hidden)


def batches(hidden: np.ndarray) -> Iterator[slice]:
    """Yields the slices of windows that form a batch each."""
    rows = max(1, _MAX_BATCH_TOKENS // hidden.shape[1])
    for first in range(0, len(hidden), rows):
        check_interrupt()
        yield slice(first, min(first + rows, len(hidden)))


def _in_batches(
    run: Callable[[np.ndarray], jax.Array], windows: np.ndarray
) -> np.ndarray:
    return np.concatenate([np.asarray(run(windows[each])) for each in batches(windows)])


@partial(jax.jit, static_argnums=0)
def _apply(graph: Any, state: Any, *inputs: jax.Array) -> jax.Array:
    return nnx.merge(graph, state)(*inputs)


@partial(jax.jit, static_argnums=(0, 1))
def _layer(
    graph: Any, architecture: Any, state: Any, hidden_BTD: jax.Array
) -> jax.Array:
    context = fresh_context(architecture, *hidden_BTD.shape[:2])
    return nnx.merge(graph, state)(hidden_BTD, None, context)[0]


@jax.jit
def _round_wire(hidden: jax.Array) -> jax.Array:
    values, scale = round_rows(hidden)
    return values.astype(jnp.float32) * scale
