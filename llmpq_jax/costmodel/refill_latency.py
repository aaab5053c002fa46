"""Seconds that refills, prompts prefilled alone while others decode, add to micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmpq_jax.costmodel.latency import LatencyModel
from llmpq_jax.schema.measurements import VocabularyLayer
from llmpq_jax.schema.precision import Bits, HeadBits


@dataclass(frozen=True, kw_only=True, slots=True)
class RefillLatency:
    """Seconds that refills add to each micro-batch they are charged to.

    Attributes:
        latency: Fitted latency model.
        shares: Pairs of padded prompt length and refills of that length per micro-batch,
            see `continuous_batching.ExpectedSchedule.refills`.
    """

    latency: LatencyModel
    shares: tuple[tuple[int, float], ...] = ()

    def layer_s(self, kind: str, bits: Bits, *, tensor: int = 1) -> float:
        """Returns the added seconds of a layer."""
        return self.sum(
            lambda tokens: self.latency.layer_s(
                kind, "prefill", bits, rows=1, lengths=tokens, tensor=tensor
            )
        )

    def vocabulary_layer_s(
        self, kind: str, part: VocabularyLayer, bits: HeadBits
    ) -> float:
        """Returns the added seconds of the embedding, or of the head on the last token."""
        return self.sum(
            lambda tokens: self.latency.vocabulary_layer_s(
                kind, "prefill", part, bits, rows=tokens if part == "embedding" else 1
            )
        )

    def dispatch_s(self, kind: str) -> float:
        """Returns the added dispatch overhead of a stage, in seconds."""
        return self.sum(lambda _: self.latency.dispatch_s(kind, "prefill"))

    def sum(self, of_length: Callable[[int], float]) -> float:
        """Returns the sum of a function of the padded prompt length over the refills."""
        return sum((share * of_length(tokens) for tokens, share in self.shares), 0.0)
