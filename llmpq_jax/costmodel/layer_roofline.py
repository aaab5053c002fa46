"""Seconds and workspace of one layer on a kind of device, from its data-sheet figures."""

from __future__ import annotations

from dataclasses import dataclass

from llmpq_jax.arch.tensors import layer_tensors, tensors_bytes
from llmpq_jax.costmodel.device_roofline import LAYER_LAUNCH_S, DeviceRoofline
from llmpq_jax.costmodel.memory import hidden_bytes
from llmpq_jax.costmodel.prefill_memory import prefill_shape, prefill_working_bytes
from llmpq_jax.schema.buckets import PREFILL_CHUNK_TOKENS
from llmpq_jax.schema.measurements import LayerTime, Phase
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    Bits,
    KvBits,
    kv_token_bytes,
)

# Up to this many rows, a product unpacks weights as it reads them.
_MAX_ROWS_UNPACKED_IN_PLACE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerRoofline:
    """Predicts a layer at one size.

    Attributes:
        device: Kind of device, with what all layers share.
        phase: Prefill or decode.
        bits: Precision of the layer's matrices.
        kv_bits: Precision of the cache.
        rows: Rows of the micro-batch.
        length: Tokens of a prompt in prefill, cached tokens in decode.
        width: Number of devices that the layer is spread over.
    """

    device: DeviceRoofline
    phase: Phase
    bits: Bits
    kv_bits: KvBits
    rows: int
    length: int
    width: int

    def row(self) -> LayerTime:
        """Returns the row of the measurements."""
        slots, workspace_bytes = self._prefill() if self._is_prefill else self._decode()
        hidden = hidden_bytes(
            self.device.architecture,
            num_tokens=self._num_tokens,
            activations=self.device.activations,
        )
        reduce_s = self.device.interconnect.reduce_s(hidden, self.width)
        seconds = self.device.seconds(self._flops(), self._traffic_bytes())
        return LayerTime(
            kind=self.device.kind.name,
            phase=self.phase,
            bits=self.bits,
            tensor=self.width,
            kv_bits=self.kv_bits,
            batch=self.rows,
            length=self.length,
            slots=slots,
            seconds=seconds + LAYER_LAUNCH_S + 2 * reduce_s,
            spread=0.0,
            workspace_bytes=workspace_bytes + self._unpacked_bytes(),
        )

    @property
    def _is_prefill(self) -> bool:
        return self.phase == "prefill"

    @property
    def _num_tokens(self) -> int:
        return self.rows * (self.length if self._is_prefill else 1)

    @property
    def _activation_bytes(self) -> int:
        return ACTIVATION_BYTES[self.device.activations]

    @property
    def _mlp_width(self) -> int:
        """Width inside the MLP on each device; hidden states are whole on each."""
        return self.device.architecture.intermediate_size // self.width

    def _weights_bytes(self, bits: Bits) -> int:
        return tensors_bytes(
            layer_tensors(self.device.architecture),
            bits=bits,
            group_size=self.device.group_size,
            tensor_width=self.width,
        )

    def _flops(self) -> float:
        # A weight of two bytes takes part in two operations, a product and an addition.
        products = float(self._weights_bytes(16)) * self._num_tokens
        a = self.device.architecture
        attention = 4.0 * self._num_tokens * self.length * a.num_heads * a.head_dim
        return products + attention / self.width

    def _traffic_bytes(self) -> int:
        a = self.device.architecture
        cached = kv_token_bytes(
            a.num_kv_heads // self.width,
            a.head_dim,
            self._activation_bytes,
            kv_bits=self.kv_bits,
        )
        numbers = 8 * a.hidden_size + 3 * self._mlp_width
        states = self._num_tokens * numbers * self._activation_bytes
        weights = self._weights_bytes(self.bits)
        traffic = weights + self.rows * self.length * cached + states
        if self.bits < 16 and self._num_tokens > _MAX_ROWS_UNPACKED_IN_PLACE:
            traffic += 2 * self._weights_bytes(16)
        return traffic

    def _unpacked_bytes(self) -> int:
        """Returns the bytes of the largest weight unpacked to 16 bits."""
        a = self.device.architecture
        widest = max(self._mlp_width, a.num_heads * a.head_dim // self.width)
        return 2 * a.hidden_size * widest if self.bits < 16 else 0

    def _prefill(self) -> tuple[int | None, int]:
        """Returns the cache length that chunks attend to, if any, and working bytes."""
        shape = prefill_shape(
            rows=self.rows,
            tokens=self.length,
            slots=self.device.slots,
            chunk_tokens=PREFILL_CHUNK_TOKENS,
            cache_rows=self.rows,
        )
        working_bytes = prefill_working_bytes(
            self.device.architecture,
            shape,
            activations=self.device.activations,
            kv_bits=self.kv_bits,
            tensor=self.width,
        )
        return (self.device.slots if shape.is_chunk else None), working_bytes

    def _decode(self) -> tuple[None, int]:
        """Returns no cache length, and working bytes."""
        numbers = 4 * self.device.architecture.hidden_size + 2 * self._mlp_width
        return None, self.rows * numbers * self._activation_bytes
