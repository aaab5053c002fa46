"""Adds the events of a run up as they come, so that they need not be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from llmpq_jax.runtime.analysis.run_record import BatchRecord, StageTimes
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.hardware import Machine
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import Phase, StageEvent


@dataclass(kw_only=True, slots=True)
class _Sums:
    """What one stage did; passes and their seconds are of the plan's micro-batches."""

    prefill_s: float = 0.0
    num_prefills: int = 0
    decode_s: float = 0.0
    num_decodes: int = 0
    busy_s: float = 0.0
    waiting_s: float = 0.0

    def mean_s(self, phase: Phase) -> float:
        """Returns the mean seconds of one pass, 0 if there was none."""
        if phase == "prefill":
            return self.prefill_s / self.num_prefills if self.num_prefills else 0.0
        return self.decode_s / self.num_decodes if self.num_decodes else 0.0


class BatchSummary:
    """The record of a run while it goes on."""

    def __init__(
        self,
        strategy: Strategy,
        *,
        started_s: float,
        num_first_prefills: int,
        keeps_events: bool = True,
    ) -> None:
        """Starts with nothing done.

        Args:
            strategy: That is run.
            started_s: Of the run, on the events' clock.
            num_first_prefills: Prefill micro-batches of the plan; what is numbered
                higher gave a place that fell free to a request that waited.
            keeps_events: For pictures and traces; their number grows with the run.
        """
        self._strategy = strategy
        self._started_s = started_s
        self._num_first_prefills = num_first_prefills
        self._keeps_events = keeps_events
        self._events: list[StageEvent] = []
        self._sums = [_Sums() for _ in strategy.stages]
        self._prefill_s = 0.0

    def add(self, events: Iterable[StageEvent]) -> None:
        """Takes what stages did, in any order."""
        for event in events:
            self._add(event)

    def _add(self, event: StageEvent) -> None:
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
            self._events.append(
                replace(
                    event,
                    received_s=event.received_s - self._started_s,
                    started_s=event.started_s - self._started_s,
                    ended_s=event.ended_s - self._started_s,
                )
            )

    def record(
        self,
        *,
        ended_s: float,
        num_requests: int,
        num_new_tokens: int,
        memory_bytes: Sequence[int],
        peaks: Mapping[int, StagePeak],
        machines: Sequence[Machine],
    ) -> BatchRecord:
        """Returns the record of the whole run.

        Args:
            ended_s: On the events' clock.
            num_requests: Served.
            num_new_tokens: Generated.
            memory_bytes: Held by each stage.
            peaks: The most that stages held, by their numbers.
            machines: What each stage ran on.
        """
        total_s = ended_s - self._started_s
        stages = tuple(
            StageTimes(
                stage=number,
                devices=stage.devices,
                prefill_s=sums.mean_s("prefill"),
                decode_s=sums.mean_s("decode"),
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
