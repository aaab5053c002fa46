"""Losses of several variants of a model on a text, in one pass over the layers.

At every layer, variants with an equal prefix share one stream of hidden states. All variants
with one low-bit layer are thus measured with each layer loaded once at each bit width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llmpq_jax.schema.precision import (
    ALL_BITS,
    Activations,
    Bits,
    HeadBits,
    KvBits,
    vector_bits,
)
from llmpq_jax.sensitivity.streamed_model import StreamedModel, batches, round_wire
from llmpq_jax.sensitivity.text import Text
from llmpq_jax.sensitivity.work_folder import WorkFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Bit widths of every part of a model.

    Attributes:
        bits: Bit width of each layer's matrices, in layer order.
        head_bits: Bit width of the head's matrix.
        kv_bits: Bit width of the cache.
        wire_bits: Bit width of hidden states between any two layers.
        activations: Type of hidden states and of a cache of 16 bits.
    """

    bits: tuple[Bits, ...]
    head_bits: HeadBits = 16
    kv_bits: KvBits = 16
    wire_bits: Literal[8, 16] = 16
    activations: Activations = "float32"

    def prefix(self, layer: int) -> Variant:
        """Returns the variant with equal bit widths before a layer and 16-bit weights after.

        Only these decide the hidden states that enter the layer, so they are computed once
        for all variants with an equal prefix.
        """
        if layer == 0:
            return replace(
                unrounded(len(self.bits)),
                head_bits=vector_bits(self.head_bits),
                activations=self.activations,
            )
        kept = self.bits[:layer]
        later: tuple[Bits, ...] = (16,) * (len(self.bits) - layer)
        # The embedding's precision goes with the head's.
        head_bits = vector_bits(self.head_bits)
        return replace(self, bits=(*kept, *later), head_bits=head_bits)


def unrounded(num_layers: int) -> Variant:
    """Returns the model at 16 bits in float32, which other variants are compared with."""
    return Variant(bits=(16,) * num_layers)


def one_layer(num_layers: int, layer: int, bits: Bits) -> Variant:
    """Returns the model with one layer at a bit width, and the others at 16 bits."""
    widths: list[Bits] = [16] * num_layers
    widths[layer] = bits
    return Variant(bits=tuple(widths))


def distinct(variants: Sequence[Variant]) -> list[Variant]:
    """Returns the distinct variants in order of their first occurrence."""
    return list(dict.fromkeys(variants))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Losses:
    """Losses of a variant at every predicted token, in nats.

    Attributes:
        nll: Negative log-likelihood of the next token, [W, L].
        kl: KL divergence from the model at 16 bits, [W, L]: the expected increase of
            `nll` if tokens follow that model's distribution.
        agrees: Whether both have the same most likely token, [W, L].
    """

    nll: Float[np.ndarray, "W L"]
    kl: Float[np.ndarray, "W L"]
    agrees: Bool[np.ndarray, "W L"]


def losses_of(
    model: StreamedModel,
    text: Text,
    variants: Sequence[Variant],
    *,
    folder: Path,
    on_stream: Callable[[int], None] = lambda _: None,
) -> list[Losses]:
    """Measures the losses of variants on a text, compared with the model at 16 bits.

    An interrupted run is resumed from `folder` after its last complete layer. `on_stream`
    is called with the number of streams that have passed a layer since (`num_streams`).
    """
    identity = [model.fingerprint, str(model.group_size)]
    if model.store.calibrated is not None:
        identity.append(repr(model.store.calibrated.calibration))
    identity += [text.digest, str(text.tokens.shape), *map(repr, variants)]
    work = WorkFolder(folder, *identity)
    every = distinct([unrounded(model.num_layers), *variants])
    first = work.state.get("layer", 0)
    if first == 0:
        for index, stream in enumerate(_streams(every)[0]):
            hidden = model.embed(
                text.tokens,
                bits=vector_bits(stream.head_bits),
                activations=stream.activations,
            )
            work.save(f"0-{index}", hidden)
    on_stream(sum(map(len, _streams(every)[1 : first + 1])))
    for layer in range(first, model.num_layers):
        _run_layer(model, work, every, layer, on_stream)
        work.save_state({"layer": layer + 1})
        for index in range(len(_streams(every)[layer])):
            work.delete(f"{layer}-{index}")
    found = dict(zip(every, _compare(model, work, text, every), strict=True))
    work.remove()
    return [found[variant] for variant in variants]


def num_streams(num_layers: int, variants: Sequence[Variant]) -> int:
    """Returns how many times a layer is run over the text to measure variants."""
    every = distinct([unrounded(num_layers), *variants])
    return sum(len(streams) for streams in _streams(every)[1:])


def _streams(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Returns the streams that enter each layer, and last those that leave the last one."""
    num_layers = len(variants[0].bits)
    return [
        distinct([variant.prefix(layer) for variant in variants])
        for layer in range(num_layers + 1)
    ]


def _run_layer(
    model: StreamedModel,
    work: WorkFolder,
    variants: Sequence[Variant],
    layer: int,
    on_stream: Callable[[int], None],
) -> None:
    streams = _streams(variants)
    entering = {stream: index for index, stream in enumerate(streams[layer])}
    for bits in ALL_BITS:
        leaving = [
            (index, stream)
            for index, stream in enumerate(streams[layer + 1])
            if stream.bits[layer] == bits
        ]
        if not leaving:
            continue
        weights = model.layer_weights(layer, bits)
        for index, stream in leaving:
            run = model.layer(
                layer,
                weights,
                kv_bits=stream.kv_bits,
                activations=stream.activations,
            )
            hidden = run(work.load(f"{layer}-{entering[stream.prefix(layer)]}"))
            if stream.wire_bits == 8 and layer + 1 < model.num_layers:
                hidden = round_wire(hidden)
            work.save(f"{layer + 1}-{index}", hidden)
            on_stream(1)


def _compare(
    model: StreamedModel, work: WorkFolder, text: Text, variants: Sequence[Variant]
) -> list[Losses]:
    heads = {
        (bits, activations): model.head(bits, activations=activations)
        for bits, activations in dict.fromkeys(map(_head_of, variants))
    }
    last = {
        stream: work.load(f"{model.num_layers}-{index}")
        for index, stream in enumerate(_streams(variants)[-1])
    }
    exact = last[unrounded(model.num_layers)]
    parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in variants]
    for batch in batches(text.tokens):
        tokens = jnp.asarray(text.tokens[batch])
        reference = heads[_head_of(unrounded(model.num_layers))](exact[batch])
        for variant, found in zip(variants, parts, strict=True):
            hidden = last[variant.prefix(model.num_layers)]
            logits = heads[_head_of(variant)](hidden[batch])
            figures = compare_logits(logits, reference, tokens)
            found.append(tuple(np.asarray(figure) for figure in figures))
    joined = [map(np.concatenate, zip(*found, strict=True)) for found in parts]
    return [Losses(nll=nll, kl=kl, agrees=agrees) for nll, kl, agrees in joined]


def _head_of(variant: Variant) -> tuple[HeadBits, Activations]:
    return variant.head_bits, variant.activations


@jax.jit
def compare_logits(
    logits_BTV: Float[Array, "B T V"],
    reference_BTV: Float[Array, "B T V"],
    tokens_BT: Int[Array, "B T"],
) -> tuple[Float[Array, "B L"], Float[Array, "B L"], Bool[Array, "B L"]]:
    """Returns the fields of `Losses`, for all tokens but each row's first."""
    found = jax.nn.log_softmax(logits_BTV[:, :-1], axis=-1)
    exact = jax.nn.log_softmax(reference_BTV[:, :-1], axis=-1)
    next_tokens = tokens_BT[:, 1:, None]
    nll = -jnp.take_along_axis(found, next_tokens, axis=-1)[..., 0]
    kl = jnp.sum(jnp.exp(exact) * (exact - found), axis=-1)
    agrees = jnp.argmax(found, axis=-1) == jnp.argmax(exact, axis=-1)
    return nll, kl, agrees
