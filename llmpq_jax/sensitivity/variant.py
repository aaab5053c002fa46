"""A model at some precisions, as a thing to be judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmpq_jax.schema.precision import Bits, HeadBits, KvBits


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Precisions of every part of a model.

    Attributes:
        bits: Of each layer's matrices, in layer order.
        head_bits: Of the head's.
        kv_bits: Of the cache.
        wire_bits: Of hidden states between any two layers.
    """

    bits: tuple[Bits, ...]
    head_bits: HeadBits = 16
    kv_bits: KvBits = 16
    wire_bits: Literal[8, 16] = 16

    def before(self, layer: int) -> Variant:
        """Returns what of it decides the hidden states that enter a layer.

        Variants that agree so far are computed once. Parts that come later are told as
        if they had 16 bits.
        """
        if layer == 0:
            return whole(len(self.bits))
        kept = self.bits[:layer]
        later: tuple[Bits, ...] = (16,) * (len(self.bits) - layer)
        return replace(self, bits=(*kept, *later), head_bits=16)


def whole(num_layers: int) -> Variant:
    """Returns the model at 16 bits, which others are compared with."""
    return Variant(bits=(16,) * num_layers)


def one_layer(num_layers: int, layer: int, bits: Bits) -> Variant:
    """Returns the model with one layer in fewer bits."""
    widths: list[Bits] = [16] * num_layers
    widths[layer] = bits
    return Variant(bits=tuple(widths))


def distinct(variants: Sequence[Variant]) -> list[Variant]:
    """Drops repetitions; the order stays."""
    return list(dict.fromkeys(variants))
