"""Seconds of prompts that are prefilled alone while others decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmpq_jax.costmodel.latency import LatencyModel, VocabularyLayer
from llmpq_jax.schema.precision import Bits, HeadBits
from llmpq_jax.schema.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class RefillLatency:
    """What refills add to each of the micro-batches they are counted with.

    Attributes:
        latency: Fitted.
        shares: Refills of one micro-batch, by the tokens of their prompts; see
            `service.ExpectedSchedule.refills`.
    """

    latency: LatencyModel
    shares: tuple[tuple[int, float], ...] = ()

    def layer_s(self, kind: str, bits: Bits, *, tensor: int = 1) -> float:
        """Returns the seconds of a layer."""
        return self.sum(
            lambda tokens: self.latency.prefill_s(
                kind,
                bits,
                rows=1,
                workload=Workload(batch=1, prompt_length=tokens, new_tokens=1),
                tensor=tensor,
            )
        )

    def vocabulary_layer_s(
        self, kind: str, part: VocabularyLayer, bits: HeadBits
    ) -> float:
        """Returns the seconds of an end of the model: the head takes the last token."""
        return self.sum(
            lambda tokens: self.latency.vocabulary_layer_s(
                kind, "prefill", part, bits, rows=tokens if part == "embedding" else 1
            )
        )

    def dispatch_s(self, kind: str) -> float:
        """Returns what the visits cost beside what the stage holds."""
        return self.sum(lambda _: self.latency.dispatch_s(kind, "prefill"))

    def sum(self, ask: Callable[[int], float]) -> float:
        """Returns the sum of what is asked of each prompt's tokens."""
        return sum((share * ask(tokens) for tokens, share in self.shares), 0.0)
