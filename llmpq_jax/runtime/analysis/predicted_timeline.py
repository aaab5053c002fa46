"""Replays a batch as it was predicted: the same micro-batches, with the plan's seconds.

A stage runs micro-batches in the order they arrive. A group's next step follows when its
last one has left the pipeline, and decode starts when prefill has ended, as in the planner's
formula (`costmodel.pipeline_schedule`). Links and shared machines are left out because a
strategy does not record them, and so are prompts that waited for a slot.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from llmpq_jax.runtime.analysis.batch_recorder import BatchRecorder
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.compiled import Phase
from llmpq_jax.stage.message import StageEvent


def predicted_batch(strategy: Strategy, batch: BatchRecord) -> BatchRecord | None:
    """Replays a batch with predicted seconds; returns None if a stage has no prediction."""
    predicted = [stage.predicted for stage in strategy.stages if stage.predicted]
    if len(predicted) < len(strategy.stages):
        return None
    first_stage = [event for event in batch.events if event.stage == 0]
    prefills = [
        event
        for event in first_stage
        if event.phase == "prefill" and event.ended_s <= batch.prefill_s
    ]
    groups: dict[int, list[StageEvent]] = defaultdict(list)
    for event in first_stage:
        if event.phase == "decode":
            groups[event.micro_batch].append(event)
    replay = _Replay(
        {
            "prefill": [each.prefill_s for each in predicted],
            "decode": [each.decode_s for each in predicted],
        },
        num_chunks=Counter(event.micro_batch for event in prefills),
    )
    prefill_s = max((replay.run(event, 0.0) for event in prefills), default=0.0)
    ended_s = prefill_s
    # The next group to run is the one that has waited longest.
    ready = [(prefill_s, group, 0) for group in sorted(groups)]
    heapq.heapify(ready)
    while ready:
        ready_s, group, index = heapq.heappop(ready)
        left_s = replay.run(groups[group][index], ready_s)
        ended_s = max(ended_s, left_s)
        if index + 1 < len(groups[group]):
            heapq.heappush(ready, (left_s, group, index + 1))
    recorder = BatchRecorder(strategy, started_s=0.0, num_first_prefills=sys.maxsize)
    recorder.add(replay.events)
    return recorder.record(
        ended_s=ended_s,
        num_requests=batch.num_requests,
        num_new_tokens=batch.num_new_tokens,
        memory_bytes=[times.memory_bytes for times in batch.stages],
        peaks={},
        machines=[None] * len(batch.stages),
    )


class _Replay:
    """Stages that run micro-batches for their predicted seconds, idle at first."""

    def __init__(
        self, seconds: Mapping[Phase, Sequence[float]], *, num_chunks: Mapping[int, int]
    ) -> None:
        self.events: list[StageEvent] = []
        self._seconds = seconds
        self._num_chunks = num_chunks
        self._free_s = [0.0] * len(seconds["decode"])

    def run(self, event: StageEvent, ready_s: float) -> float:
        """Runs a micro-batch on all stages; returns the time when it leaves the last."""
        fraction = 1.0
        if event.phase == "prefill":
            fraction = 1 / self._num_chunks[event.micro_batch]
        for number, seconds in enumerate(self._seconds[event.phase]):
            started_s = max(ready_s, self._free_s[number])
            ended_s = started_s + seconds * fraction * event.num_steps
            self.events.append(
                StageEvent(
                    stage=number,
                    phase=event.phase,
                    micro_batch=event.micro_batch,
                    step=event.step,
                    num_steps=event.num_steps,
                    received_s=ready_s,
                    started_s=started_s,
                    ended_s=ended_s,
                )
            )
            self._free_s[number] = ready_s = ended_s
        return ready_s
