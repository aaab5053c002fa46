"""Sums up the events of a run as they come, so that they need not be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmpq_jax.runtime.analysis.run_record import BatchRecord, StageTimes
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.hardware import Machine
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import StageEvent


@dataclass(kw_only=True, slots=True)
class _Sums:
    """Sums over one stage's events; prefill's are those of the plan's micro-batches."""

    prefill_s: float = 0.0
    num_prefills: int = 0
    decode_s: float = 0.0
    num_decodes: int = 0
    busy_s: float = 0.0
    waiting_s: float = 0.0


class BatchRecorder:
    """Makes the record of a run from the stages' events."""

    def __init__(
        self,
        strategy: Strategy,
        *,
        started_s: float,
        num_first_prefills: int,
        keeps_events: bool = True,
    ) -> None:
        """Starts a record at a time of the events' clock.

        Args:
            strategy: Strategy that is run.
            started_s: Start of the run, on the events' clock.
            num_first_prefills: Number of the plan's prefill micro-batches; those with
                higher numbers prefill requests that waited for a slot.
            keeps_events: Whether to keep all events, for timelines and traces.
        """
        self._strategy = strategy
        self._started_s = started_s
        self._num_first_prefills = num_first_prefills
        self._keeps_events = keeps_events
        self._events: list[StageEvent] = []
        self._sums = [_Sums() for _ in strategy.stages]
        self._prefill_s = 0.0

    def add(self, events: Iterable[StageEvent]) -> None:
        """Adds events, in any order."""
        for event in events:
            sums = self._sums[event.stage]
            seconds = event.ended_s - event.started_s
            sums.busy_s += seconds
            sums.waiting_s += event.started_s - event.received_s
            if event.phase == "decode":
                sums.decode_s += seconds
                sums.num_decodes += event.num_steps
            elif event.micro_batch < self._num_first_prefills:
                sums.prefill_s += seconds
                # The chunks of a long prompt are one micro-batch.
                sums.num_prefills += event.num_steps if event.step == 0 else 0
                self._prefill_s = max(self._prefill_s, event.ended_s - self._started_s)
            if self._keeps_events:
                self._events.append(event.shifted(-self._started_s))

    def record(
        self,
        *,
        ended_s: float,
        num_requests: int,
        num_new_tokens: int,
        memory_bytes: Sequence[int],
        peaks: Mapping[int, StagePeak],
        machines: Sequence[Machine | None],
    ) -> BatchRecord:
        """Returns the record of a run that ended at a time of the events' clock.

        Bytes are those of each stage's weights and caches, on each device; peaks are by
        stage, as far as they are known.
        """
        total_s = ended_s - self._started_s
        stages = tuple(
            StageTimes(
                stage=number,
                devices=stage.devices,
                prefill_s=_mean(sums.prefill_s, sums.num_prefills),
                decode_s=_mean(sums.decode_s, sums.num_decodes),
                busy_s=sums.busy_s,
                idle_s=max(0.0, total_s - sums.busy_s),
                waiting_s=sums.waiting_s,
                memory_bytes=memory_bytes[number],
                peak=peaks.get(number),
                machine=machines[number],
            )
            for number, (stage, sums) in enumerate(
                zip(self._strategy.stages, self._sums, strict=True)
            )
        )
        events = sorted(self._events, key=lambda event: (event.started_s, event.stage))
        return BatchRecord(
            num_requests=num_requests,
            num_new_tokens=num_new_tokens,
            prefill_s=self._prefill_s,
            decode_s=max(0.0, total_s - self._prefill_s),
            stages=stages,
            events=tuple(events),
        )


def _mean(total_s: float, count: int) -> float:
    return total_s / count if count else 0.0
