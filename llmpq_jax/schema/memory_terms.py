"""Bytes of a stage, by their purpose."""

from __future__ import annotations

from dataclasses import asdict

from llmpq_jax.schema.field_types import ByteCount
from llmpq_jax.schema.record import record
from llmpq_jax.units import format_bytes


@record
class MemoryTerms:
    """Bytes of one stage on each of its devices.

    The device's reserve is not included: it reduces the bytes that a plan may use.

    Attributes:
        weights: Bytes of the layers' weights and their scales.
        kv_cache: Bytes of the caches of all micro-batches.
        embedding: Bytes of the embedding on the first stage, else 0.
        head: Bytes of the head on the last stage, else 0.
        workspace: Temporary memory of the largest compiled program, in bytes.
        buffers: Bytes of hidden states that are sent, and of those that are received
            while others are computed.
    """

    weights: ByteCount
    kv_cache: ByteCount
    embedding: ByteCount
    head: ByteCount
    workspace: ByteCount
    buffers: ByteCount

    @property
    def total(self) -> int:
        """Sum of all terms."""
        return sum(asdict(self).values())

    def __str__(self) -> str:
        return ", ".join(
            f"{name.replace('kv_', 'KV ')} {format_bytes(size)}"
            for name, size in asdict(self).items()
            if size
        )
