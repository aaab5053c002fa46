"""Second moments of every matrix's inputs, and of the loss's gradient by its outputs.

One pass forwards through the layers keeps the hidden states before each, and one pass
backwards takes the moments, a layer at a time. The loss is −log p(y) with every y drawn from
the model's own distribution, so that the gradients' moments are those of the Fisher
information: the loss's second order if tokens follow that distribution (Martens and Grosse,
K-FAC, arXiv 1503.05671, section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.tensors import TensorSpec, head_tensors, layer_tensors
from llmpq_jax.checkpoint.load import load_weights
from llmpq_jax.model import DecoderLayer, Head, fresh_context
from llmpq_jax.sensitivity.moment_array import with_moment_slots
from llmpq_jax.sensitivity.streamed_model import StreamedModel, batches
from llmpq_jax.sensitivity.text import Text
from llmpq_jax.sensitivity.work_folder import WorkFolder


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Factors of the loss's second order in one matrix.

    Attributes:
        weight: Matrix of the checkpoint, [C, F].
        inputs: Second moment E[x·xᵀ] of the tokens' inputs x, [C, C].
        outputs: Second moment E[g²] of the gradient g of a window's summed loss by the
            outputs, [F].
    """

    weight: Float[Array, "C F"]
    inputs: Float[Array, "C C"]
    outputs: Float[Array, " F"]


LayerMoments = dict[str, Moments]
Plain = dict[str, jax.Array]
# Gradients of matrices with slots; those of all other tensors are not used.
Slots = dict[str, Any]


def moments_of(
    model: StreamedModel,
    text: Text,
    *,
    folder: Path,
    seed: int = 0,
    on_layer: Callable[[], None] = lambda: None,
) -> Generator[tuple[int, LayerMoments], None, None]:
    """Yields the head's moments (as layer L) and then each layer's, the last one first.

    An interrupted run is resumed from `folder` after the last layer whose moments were
    processed. `on_layer` is called for each layer, forwards and backwards.
    """
    identity = (model.fingerprint, text.digest, str(text.tokens.shape), str(seed))
    work, num_layers = WorkFolder(folder, *identity), model.num_layers
    first = work.state.get("forward", 0)
    if first == 0:
        work.save("hidden-0", model.embed(text.tokens))
    for _ in range(first):
        on_layer()
    for layer in range(first, num_layers):
        run = model.layer(layer, model.layer_weights(layer, 16))
        work.save(f"hidden-{layer + 1}", run(work.load(f"hidden-{layer}")))
        work.save_state({"forward": layer + 1})
        on_layer()
    if "backward" not in work.state:
        gradient, moments = _head_moments(
            model, work.load(f"hidden-{num_layers}"), seed
        )
        yield num_layers, moments
        work.save(f"gradient-{num_layers}", gradient)
        work.save_state({"forward": num_layers, "backward": num_layers})
    for _ in range(num_layers - work.state["backward"]):
        on_layer()
    for layer in reversed(range(work.state["backward"])):
        hidden = work.load(f"hidden-{layer}")
        gradient, moments = layer_moments(
            model, layer, hidden, work.load(f"gradient-{layer + 1}")
        )
        yield layer, moments
        # Written after the caller processed the layer, which a resumed run then skips.
        work.save(f"gradient-{layer}", gradient)
        work.save_state({"forward": num_layers, "backward": layer})
        work.delete(f"gradient-{layer + 1}")
        work.delete(f"hidden-{layer + 1}")
        on_layer()
    work.remove()


def _head_moments(
    model: StreamedModel, hidden_WTD: np.ndarray, seed: int
) -> tuple[np.ndarray, LayerMoments]:
    weights = cast("Plain", load_weights(model.store.head(bits=16)))

    def pull(index: int, batch: np.ndarray, _: None) -> tuple[Array, Slots]:
        key = jax.random.fold_in(jax.random.key(seed), index)
        return _pull_head(model.architecture, weights, jnp.asarray(batch), key)

    return _pull_all(pull, hidden_WTD, None, weights, head_tensors(model.architecture))


def layer_moments(
    model: StreamedModel, layer: int, hidden_WTD: np.ndarray, gradient_WTD: np.ndarray
) -> tuple[np.ndarray, LayerMoments]:
    """Returns the gradient by a layer's inputs, and the moments of its matrices.

    `hidden_WTD` are before the layer, `gradient_WTD` is by the hidden states after it.
    """
    # Plain arrays, as at 16 bits on the default device: native kernels have no derivative.
    weights = cast("Plain", load_weights(model.store.layer(layer, bits=16)))
    # Layers differ in their attention windows alone, so one is compiled for each window.
    architecture = model.architecture
    windows = architecture.layer_windows
    equal_layer = windows.index(windows[layer])

    def pull(_: int, batch: np.ndarray, gradient: np.ndarray) -> tuple[Array, Slots]:
        arrays = jnp.asarray(batch), jnp.asarray(gradient)
        return _pull_layer(architecture, equal_layer, weights, *arrays)

    tensors = layer_tensors(architecture)
    return _pull_all(pull, hidden_WTD, gradient_WTD, weights, tensors)


def _pull_all(
    pull: Callable[[int, np.ndarray, Any], tuple[Array, Slots]],
    hidden_WTD: np.ndarray,
    gradient_WTD: np.ndarray | None,
    weights: Plain,
    tensors: tuple[TensorSpec, ...],
) -> tuple[np.ndarray, LayerMoments]:
    """Pulls gradients back through a part, batch by batch, and sums its moments."""
    names = [tensor.name for tensor in tensors if tensor.is_matrix]
    gradients, sums = [], None
    for index, each in enumerate(batches(hidden_WTD)):
        after = None if gradient_WTD is None else gradient_WTD[each]
        gradient, slots = pull(index, hidden_WTD[each], after)
        gradients.append(np.asarray(gradient))
        slots = {name: slots[name] for name in names}
        sums = slots if sums is None else jax.tree.map(jnp.add, sums, slots)
    assert sums is not None, "a text has at least one window"
    num_tokens = hidden_WTD.shape[0] * hidden_WTD.shape[1]
    return np.concatenate(gradients), {
        name: Moments(
            weight=weights[name],
            inputs=sums[name].input_slot / num_tokens,
            outputs=sums[name].output_slot / num_tokens,
        )
        for name in names
    }


def _with_slots(weights: Plain, tensors: tuple[TensorSpec, ...]) -> dict[str, Any]:
    return {
        tensor.name: with_moment_slots(weights[tensor.name])
        if tensor.is_matrix
        else weights[tensor.name]
        for tensor in tensors
    }


@partial(jax.jit, static_argnums=(0, 1))
def _pull_layer(
    architecture: Architecture,
    layer: int,
    weights: Plain,
    hidden_BTD: jax.Array,
    gradient_BTD: jax.Array,
) -> tuple[jax.Array, Slots]:
    context = fresh_context(architecture, *hidden_BTD.shape[:2])

    def run(hidden: jax.Array, weights: dict[str, Any]) -> jax.Array:
        return DecoderLayer(architecture, layer, weights)(hidden, None, context)[0]

    slotted = _with_slots(weights, layer_tensors(architecture))
    _, pull_back = jax.vjp(run, hidden_BTD, slotted)
    return pull_back(gradient_BTD)


@partial(jax.jit, static_argnums=0)
def _pull_head(
    architecture: Architecture, weights: Plain, hidden_BTD: jax.Array, key: jax.Array
) -> tuple[jax.Array, Slots]:
    def loss(hidden: jax.Array, weights: dict[str, Any]) -> jax.Array:
        logits = Head(architecture, weights)(hidden)
        drawn = jax.lax.stop_gradient(jax.random.categorical(key, logits, axis=-1))
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        return -jnp.sum(jnp.take_along_axis(logprobs, drawn[..., None], axis=-1))

    slotted = _with_slots(weights, head_tensors(architecture))
    return jax.grad(loss, argnums=(0, 1))(hidden_BTD, slotted)
