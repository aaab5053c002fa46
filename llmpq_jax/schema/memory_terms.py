"""Bytes of a stage, by what they are for."""

from __future__ import annotations

from llmpq_jax.schema.record import record
from llmpq_jax.units import format_bytes


@record
class MemoryTerms:
    """Bytes of one stage on each of its devices.

    The device's reserve is not among them: it narrows what a plan may fill, see
    `cluster.Device.usable_bytes`.

    Attributes:
        weights: Of the layers, with scales.
        kv_cache: Of all micro-batches; every one keeps its own until it ends.
        embedding: On the first stage, else 0.
        head: On the last stage, else 0.
        workspace: Temporary memory of the largest compiled program.
        buffers: Hidden states that are handed on, and that arrive while others are
            worked on.
    """

    weights: int
    kv_cache: int
    embedding: int
    head: int
    workspace: int
    buffers: int

    @property
    def total(self) -> int:
        """All terms together."""
        ends = self.embedding + self.head
        return self.weights + self.kv_cache + ends + self.workspace + self.buffers

    def __str__(self) -> str:
        terms = {
            "weights": self.weights,
            "KV cache": self.kv_cache,
            "embedding": self.embedding,
            "head": self.head,
            "workspace": self.workspace,
            "buffers": self.buffers,
        }
        return ", ".join(
            f"{name} {format_bytes(size)}" for name, size in terms.items() if size
        )
