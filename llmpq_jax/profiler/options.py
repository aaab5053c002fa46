"""What a profile measures, and how thoroughly."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from llmpq_jax.profiler.grid import QUICK_GRID, Grid
from llmpq_jax.profiler.stopwatch import Stopwatch
from llmpq_jax.schema.precision import ALL_BITS, Activations, Bits, KvBits


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileOptions:
    """Options of one run of the profiler.

    Attributes:
        activations: Type of hidden states and cache.
        group_size: Largest number of int4 weights that share a scale.
        bits: Bit widths of layers, in the order they are measured.
        kv_bits: Bit width of the cache.
        tensor_widths: Numbers of equal devices of a node that layers are split over. A
            kind that has fewer on its node is measured at the widths it allows.
        grid: Sizes that are timed.
        kinds: Kinds of device to measure; None for all kinds of the cluster.
        stopwatch: Timer that decides how often a call is repeated.
    """

    activations: Activations
    group_size: int = 128
    bits: tuple[Bits, ...] = ALL_BITS
    kv_bits: KvBits = 16
    tensor_widths: tuple[int, ...] = (1,)
    grid: Grid = QUICK_GRID
    kinds: Collection[str] | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
