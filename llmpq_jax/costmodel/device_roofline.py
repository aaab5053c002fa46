"""Data-sheet figures of one kind of device, as seconds of arithmetic and memory traffic."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.catalogue import DeviceKind
from llmpq_jax.schema.precision import Activations

# Assumptions: the share of the data-sheet figures that well-written programs reach, and the
# seconds it takes to launch the few dozen programs of a layer.
FLOPS_EFFICIENCY = 0.6
BANDWIDTH_EFFICIENCY = 0.8
LAYER_LAUNCH_S = 40e-6
VOCABULARY_LAYER_LAUNCH_S = 40e-6
# Assumed for two kinds without a [[link]]: a PCIe 3 slot, one way.
LINK_BYTES_PER_S = 12e9
LINK_LATENCY_S = 30e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeInterconnect:
    """How devices of one kind are connected inside a node.

    Attributes:
        widths: Numbers of devices that a layer may be spread over, each above 1.
        bandwidth_bytes_per_s: Bandwidth of one transfer between two of them, one way.
        latency_s: Seconds before the first byte of a transfer.
    """

    widths: tuple[int, ...] = ()
    bandwidth_bytes_per_s: float = LINK_BYTES_PER_S
    latency_s: float = LINK_LATENCY_S

    def reduce_s(self, num_bytes: int, width: int) -> float:
        """Returns the seconds of a ring all-reduce; 0 on one device."""
        share = num_bytes / width / self.bandwidth_bytes_per_s
        return 2 * (width - 1) * (self.latency_s + share)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRoofline:
    """One kind of device, with what all predictions for it share.

    Attributes:
        kind: Data-sheet figures of the kind.
        interconnect: How its devices are connected inside a node.
        architecture: Architecture of the model.
        prompts: Prompt lengths, each a bucket.
        slots: Length of a cache, in tokens.
        activations: Type of hidden states.
        group_size: Number of weights that share an int4 scale.
    """

    kind: DeviceKind
    interconnect: NodeInterconnect
    architecture: Architecture
    prompts: tuple[int, ...]
    slots: int
    activations: Activations
    group_size: int

    def seconds(self, flops: float, num_bytes: float) -> float:
        """Returns the longer of arithmetic and memory traffic, in seconds."""
        arithmetic = flops / (FLOPS_EFFICIENCY * self.kind.flops)
        bandwidth = BANDWIDTH_EFFICIENCY * self.kind.bandwidth_bytes_per_s
        return max(arithmetic, num_bytes / bandwidth)
