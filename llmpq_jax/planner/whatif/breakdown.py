"""What a plan takes, as records: bytes by part, seconds by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmpq_jax.costmodel.pipeline_schedule import PhaseTerms
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.precision import Bits

Part = Literal["once", "following", "busy rounds", "empty rounds", "shared machine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBreakdown:
    """What one stage takes on each of its devices.

    Attributes:
        devices: Names.
        layers: From, up to but without.
        bits: Of each layer.
        memory: Bytes by part.
        scales: Of the weights, those that are scales.
        workspace: By phase; the larger one is counted.
        reserve_bytes: Of the device, which no plan may fill.
        allowed_bytes: What a plan may fill.
        next_bits_bytes: The least more that one layer at its next higher precision
            needs; absent where there is none.
        next_layer_bytes: The least more that one more layer needs.
        prefill_s: Of one micro-batch.
        decode_s: Of one step of one micro-batch.
    """

    devices: tuple[str, ...]
    layers: tuple[int, int]
    bits: tuple[Bits, ...]
    memory: MemoryTerms
    scales: int
    workspace: dict[Phase, int]
    reserve_bytes: int
    allowed_bytes: int
    next_bits_bytes: int | None
    next_layer_bytes: int
    prefill_s: float
    decode_s: float

    @property
    def spare_bytes(self) -> int:
        """What is left; negative where the stage does not fit."""
        return self.allowed_bytes - self.memory.total

    @property
    def is_full(self) -> bool:
        """Whether neither a layer more nor a layer at more bits fits."""
        least = self.next_layer_bytes
        if self.next_bits_bytes is not None:
            least = min(least, self.next_bits_bytes)
        return self.spare_bytes < least


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """A stage or a link, which micro-batches pass one after the other.

    Attributes:
        name: Its devices; of a link both ends.
        is_link: Else it is a stage.
        seconds: Of one micro-batch.
        slack_s: How much slower it may become before it is the slowest.
    """

    name: str
    is_link: bool
    seconds: float
    slack_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseBreakdown:
    """What one phase takes.

    Attributes:
        phase: Which.
        num_micro_batches: m; where rows end apart, a mean.
        terms: Of its seconds.
        resources: In pipeline order.
    """

    phase: Phase
    num_micro_batches: float
    terms: PhaseTerms
    resources: tuple[Resource, ...]

    @property
    def slowest(self) -> Resource:
        """The bottleneck."""
        return max(self.resources, key=lambda resource: resource.seconds)

    @property
    def dominant(self) -> Part:
        """The part of the formula that most of its seconds are."""
        terms = self.terms
        if terms.shared_s > terms.once_s + terms.following_s + terms.later_s:
            return "shared machine"
        parts: dict[Part, float] = {
            "once": terms.once_s,
            "following": terms.following_s,
            "busy rounds" if terms.is_busy else "empty rounds": terms.later_s,
        }
        return max(parts, key=lambda part: parts[part])


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanBreakdown:
    """What a plan takes.

    Attributes:
        stages: In pipeline order.
        phases: Prefill, and decode where there is any.
        latency_s: Of both.
        omega: Σω.
        omega_budget: It may not exceed; absent where there is no limit.
        fits: Whether memory, pins and budget hold.
    """

    stages: tuple[StageBreakdown, ...]
    phases: tuple[PhaseBreakdown, ...]
    latency_s: float
    omega: float
    omega_budget: float | None
    fits: bool
