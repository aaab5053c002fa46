"""A model at given bit widths, whose loss can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from llmpq_jax.schema.precision import Bits, HeadBits, KvBits


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """Bit widths of every part of a model.

    Attributes:
        bits: Bit width of each layer's matrices, in layer order.
        head_bits: Bit width of the head's matrix.
        kv_bits: Bit width of the cache.
        wire_bits: Bit width of hidden states between any two layers.
    """

    bits: tuple[Bits, ...]
    head_bits: HeadBits = 16
    kv_bits: KvBits = 16
    wire_bits: Literal[8, 16] = 16

    def prefix(self, layer: int) -> Variant:
        """Returns the variant with equal bit widths before a layer and 16-bit weights after.

        Only these decide the hidden states that enter the layer, so they are computed once
        for all variants with an equal prefix.
        """
        if layer == 0:
            return unrounded(len(self.bits))
        kept = self.bits[:layer]
        later: tuple[Bits, ...] = (16,) * (len(self.bits) - layer)
        return replace(self, bits=(*kept, *later), head_bits=16)


def unrounded(num_layers: int) -> Variant:
    """Returns the model at 16 bits, which other variants are compared with."""
    return Variant(bits=(16,) * num_layers)


def one_layer(num_layers: int, layer: int, bits: Bits) -> Variant:
    """Returns the model with one layer at a bit width, and the others at 16 bits."""
    widths: list[Bits] = [16] * num_layers
    widths[layer] = bits
    return Variant(bits=tuple(widths))


def distinct(variants: Sequence[Variant]) -> list[Variant]:
    """Returns the distinct variants in order of their first occurrence."""
    return list(dict.fromkeys(variants))
