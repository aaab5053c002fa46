"""What each stage did in each phase of a batch, beside what was predicted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.compiled import Phase
from llmpq_jax.stage.message import StageEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePhase:
    """One stage in one phase of a batch.

    Attributes:
        stage: Its number.
        phase: Prefill until every row of the batch has its first token, then decode.
        predicted_s: Of one micro-batch, for the sizes that were planned; absent where
            nobody predicted it.
        measured_s: Likewise, the mean.
        busy_s: Seconds of the phase it worked, whatever on.
        idle_s: Seconds of the phase it did not.
        queued_s: Mean seconds a micro-batch of the phase lay in its inbox.
        link_s: Mean seconds a micro-batch was under way from the stage before.
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
        """How many times as long as predicted it took; absent where it cannot be said."""
        if not self.predicted_s or not self.measured_s:
            return None
        return self.measured_s / self.predicted_s


def phase_times(strategy: Strategy, batch: BatchRecord) -> tuple[StagePhase, ...]:
    """Adds a batch's events up, by stage and then by phase."""
    ended_s: dict[tuple[int, Phase, int, int], float] = {
        (event.stage, event.phase, event.micro_batch, event.step): event.ended_s
        for event in batch.events
    }
    found = []
    for number, stage in enumerate(strategy.stages):
        own = [event for event in batch.events if event.stage == number]
        predicted, times = stage.predicted, batch.stages[number]
        windows: tuple[tuple[Phase, float, float, float | None, float], ...] = (
            (
                "prefill",
                0.0,
                batch.prefill_s,
                predicted and predicted.prefill_s,
                times.prefill_s,
            ),
            (
                "decode",
                batch.prefill_s,
                batch.latency_s,
                predicted and predicted.decode_s,
                times.decode_s,
            ),
        )
        for phase, begin_s, end_s, predicted_s, measured_s in windows:
            busy_s = sum(
                max(0.0, min(event.ended_s, end_s) - max(event.started_s, begin_s))
                for event in own
            )
            of_phase = [event for event in own if event.phase == phase]
            found.append(
                StagePhase(
                    stage=number,
                    phase=phase,
                    predicted_s=predicted_s,
                    measured_s=measured_s,
                    busy_s=busy_s,
                    idle_s=max(0.0, end_s - begin_s - busy_s),
                    queued_s=_mean([e.started_s - e.received_s for e in of_phase]),
                    link_s=_mean(_links_s(of_phase, ended_s)),
                )
            )
    return tuple(found)


def _links_s(
    events: Sequence[StageEvent], ended_s: dict[tuple[int, Phase, int, int], float]
) -> list[float]:
    """From the end on the stage before to the arrival here; none before the first."""
    found = []
    for event in events:
        key = (event.stage - 1, event.phase, event.micro_batch, event.step)
        if key in ended_s:
            found.append(max(0.0, event.received_s - ended_s[key]))
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
