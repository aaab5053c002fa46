"""Seconds and workspace on a kind of device, from its data-sheet figures."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.arch.architecture import Architecture
from llmpq_jax.arch.catalogue import DeviceKind
from llmpq_jax.arch.tensors import for_width, layer_tensors, tensors_bytes
from llmpq_jax.costmodel.memory import hidden_bytes
from llmpq_jax.costmodel.prefill_memory import prefill_shape, prefill_working_bytes
from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS
from llmpq_jax.schema.measurements import LayerTime, Phase
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    Activations,
    Bits,
    KvBits,
    kv_token_bytes,
)

# Assumptions: the share of the data-sheet figures that well-written programs reach, and the
# seconds it takes to launch the few dozen programs of a layer.
FLOPS_EFFICIENCY = 0.6
BANDWIDTH_EFFICIENCY = 0.8
LAYER_LAUNCH_S = 40e-6
VOCABULARY_LAYER_LAUNCH_S = 40e-6
# Assumed for two kinds without a [[link]]: a PCIe 3 slot, one way.
LINK_BYTES_PER_S = 12e9
LINK_LATENCY_S = 30e-6
# Up to this many rows, a product unpacks weights as it reads them.
_MAX_ROWS_UNPACKED_IN_PLACE = 32


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

    `prompts` are prompt lengths, each a bucket; `slots` is the length of a cache.
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

    def layer_row(
        self,
        *,
        phase: Phase,
        bits: Bits,
        kv_bits: KvBits,
        rows: int,
        length: int,
        width: int,
    ) -> LayerTime:
        """Returns a layer's row of the measurements, spread over `width` devices.

        `length` counts tokens of a prompt in prefill, cached tokens in decode.
        """
        a, is_prefill = for_width(self.architecture, width), phase == "prefill"
        num_tokens = rows * (length if is_prefill else 1)
        size = ACTIVATION_BYTES[self.activations]
        # Width inside the MLP on each device; hidden states are whole on each.
        mlp_width = a.intermediate_size // width
        is_unpacked = bits not in (16, 32) and num_tokens > _MAX_ROWS_UNPACKED_IN_PLACE
        whole_bytes = self._weights_bytes(16, width)
        cached = kv_token_bytes(
            a.num_kv_heads // width, a.head_dim, size, kv_bits=kv_bits
        )
        states = num_tokens * (8 * a.hidden_size + 3 * mlp_width) * size
        traffic = self._weights_bytes(bits, width) + rows * length * cached + states
        traffic += 2 * whole_bytes if is_unpacked else 0
        # A weight of two bytes takes part in two operations, a product and an addition.
        attention = 4.0 * num_tokens * length * a.num_heads * a.head_dim
        flops = float(whole_bytes) * num_tokens + attention / width
        if is_prefill:
            slots, workspace = self._prefill(rows, length, kv_bits, width)
        else:
            slots, workspace = None, rows * (4 * a.hidden_size + 2 * mlp_width) * size
        # The largest quantised weight is unpacked to 16 bits.
        widest = max(mlp_width, a.num_heads * a.head_dim // width)
        unpacked = 2 * a.hidden_size * widest if bits not in (16, 32) else 0
        hidden = hidden_bytes(a, num_tokens=num_tokens, activations=self.activations)
        reduce_s = self.interconnect.reduce_s(hidden, width)
        return LayerTime(
            kind=self.kind.name,
            phase=phase,
            bits=bits,
            tensor=width,
            kv_bits=kv_bits,
            batch=rows,
            length=length,
            slots=slots,
            seconds=self.seconds(flops, traffic) + LAYER_LAUNCH_S + 2 * reduce_s,
            spread=0.0,
            workspace_bytes=workspace + unpacked,
        )

    def _weights_bytes(self, bits: Bits, width: int) -> int:
        return tensors_bytes(
            layer_tensors(for_width(self.architecture, width)),
            bits=bits,
            group_size=self.group_size,
            tensor_width=width,
        )

    def _prefill(
        self, rows: int, tokens: int, kv_bits: KvBits, width: int
    ) -> tuple[int | None, int]:
        """Returns the cache length that chunks attend to, if any, and working bytes."""
        shape = prefill_shape(
            rows=rows,
            tokens=tokens,
            slots=self.slots,
            chunk_tokens=PREFILL_CHUNK_TOKENS,
            cache_rows=rows,
        )
        working_bytes = prefill_working_bytes(
            self.architecture,
            shape,
            activations=self.activations,
            kv_bits=kv_bits,
            tensor=width,
        )
        return (self.slots if shape.is_chunk else None), working_bytes
