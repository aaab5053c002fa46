"""Compares each stage's seconds in each phase of a batch with the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.compiled import Phase
from llmpq_jax.stage.message import StageEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePhase:
    """One stage's times in one phase of a batch.

    Attributes:
        stage: Number of the stage.
        phase: Prefill until each of the first prompts has its first token, then decode.
        predicted_s: Seconds of one micro-batch as planned; None without a prediction.
        measured_s: Mean seconds of one micro-batch.
        busy_s: Seconds of the phase that the stage worked, on either phase's messages.
        idle_s: Seconds of the phase that the stage did not work.
        queued_s: Mean seconds that the phase's messages waited in the stage's inbox.
        link_s: Mean seconds from a message's end on the stage before to its receipt here.
    """

    stage: int
    phase: Phase
    predicted_s: float | None
    measured_s: float
    busy_s: float
    idle_s: float
    queued_s: float
    link_s: float

    @property
    def ratio(self) -> float | None:
        """Measured over predicted seconds; None unless both are known."""
        if not self.predicted_s or not self.measured_s:
            return None
        return self.measured_s / self.predicted_s


def phase_times(strategy: Strategy, batch: BatchRecord) -> tuple[StagePhase, ...]:
    """Returns the times of each stage, and within it of each phase."""
    ended_s: dict[tuple[int, Phase, int, int], float] = {
        (event.stage, event.phase, event.micro_batch, event.step): event.ended_s
        for event in batch.events
    }
    windows: dict[Phase, tuple[float, float]] = {
        "prefill": (0.0, batch.prefill_s),
        "decode": (batch.prefill_s, batch.latency_s),
    }
    found = []
    for number, stage in enumerate(strategy.stages):
        events = [event for event in batch.events if event.stage == number]
        predicted, times = stage.predicted, batch.stages[number]
        for phase, (start_s, end_s) in windows.items():
            busy_s = sum(
                max(0.0, min(event.ended_s, end_s) - max(event.started_s, start_s))
                for event in events
            )
            of_phase = [event for event in events if event.phase == phase]
            is_prefill = phase == "prefill"
            found.append(
                StagePhase(
                    stage=number,
                    phase=phase,
                    predicted_s=predicted
                    and (predicted.prefill_s if is_prefill else predicted.decode_s),
                    measured_s=times.prefill_s if is_prefill else times.decode_s,
                    busy_s=busy_s,
                    idle_s=max(0.0, end_s - start_s - busy_s),
                    queued_s=_mean([e.started_s - e.received_s for e in of_phase]),
                    link_s=_mean(_links_s(of_phase, ended_s)),
                )
            )
    return tuple(found)


def _links_s(
    events: Sequence[StageEvent], ended_s: dict[tuple[int, Phase, int, int], float]
) -> list[float]:
    """Returns the seconds that each event's message was on the link to its stage."""
    found = []
    for event in events:
        key = (event.stage - 1, event.phase, event.micro_batch, event.step)
        if key in ended_s:
            found.append(max(0.0, event.received_s - ended_s[key]))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
