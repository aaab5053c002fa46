"""A batch as it was predicted: the same micro-batches, each as long as the plan says.

A stage takes micro-batches one after the other as they come; a group's next step follows
when its last one has left the pipeline; decode begins when prefill has ended, as the
planner's formula has it. Links and shared machines are left out, of which a strategy says
nothing, and so are prompts that took the places of others.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

from llmpq_jax.runtime.analysis.run_record import BatchRecord, StageTimes
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.compiled import Phase
from llmpq_jax.stage.message import StageEvent


def predicted_batch(strategy: Strategy, batch: BatchRecord) -> BatchRecord | None:
    """Replays a batch with predicted seconds; nothing where a stage has none."""
    predicted = [stage.predicted for stage in strategy.stages]
    if any(each is None for each in predicted):
        return None
    seconds: dict[Phase, list[float]] = {
        "prefill": [each.prefill_s for each in predicted if each is not None],
        "decode": [each.decode_s for each in predicted if each is not None],
    }
    first = [event for event in batch.events if event.stage == 0]
    prefills = [
        event
        for event in first
        if event.phase == "prefill" and event.ended_s <= batch.prefill_s
    ]
    chunks: dict[int, int] = defaultdict(int)
    for event in prefills:
        chunks[event.micro_batch] += 1
    free_s = [0.0] * len(predicted)
    replayed: list[StageEvent] = []

    def run(event: StageEvent, ready_s: float) -> float:
        """Sends a micro-batch through all stages; returns when it has left them."""
        share = 1 / chunks[event.micro_batch] if event.phase == "prefill" else 1.0
        for number, each_s in enumerate(seconds[event.phase]):
            started_s = max(ready_s, free_s[number])
            ended_s = started_s + each_s * share * event.num_steps
            replayed.append(
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
            free_s[number] = ready_s = ended_s
        return ready_s

    prefill_s = max((run(event, 0.0) for event in prefills), default=0.0)
    groups: dict[int, list[StageEvent]] = defaultdict(list)
    for event in first:
        if event.phase == "decode":
            groups[event.micro_batch].append(event)
    ended_s = prefill_s
    # Whose turn is next: the group that has waited longest.
    ready = [(prefill_s, group, 0) for group in sorted(groups)]
    heapq.heapify(ready)
    while ready:
        ready_s, group, index = heapq.heappop(ready)
        left_s = run(groups[group][index], ready_s)
        ended_s = max(ended_s, left_s)
        if index + 1 < len(groups[group]):
            heapq.heappush(ready, (left_s, group, index + 1))
    return BatchRecord(
        num_requests=batch.num_requests,
        num_new_tokens=batch.num_new_tokens,
        prefill_s=prefill_s,
        decode_s=ended_s - prefill_s,
        stages=tuple(
            _times(
                times, [event for event in replayed if event.stage == number], ended_s
            )
            for number, times in enumerate(batch.stages)
        ),
        events=tuple(
            sorted(replayed, key=lambda event: (event.started_s, event.stage))
        ),
    )


def _times(times: StageTimes, events: list[StageEvent], total_s: float) -> StageTimes:
    """One stage's share of what was replayed."""

    def mean_s(phase: Phase) -> float:
        own = [event for event in events if event.phase == phase]
        passes = sum(e.num_steps for e in own if phase == "decode" or e.step == 0)
        return sum(e.ended_s - e.started_s for e in own) / passes if passes else 0.0

    busy_s = sum(event.ended_s - event.started_s for event in events)
    return StageTimes(
        stage=times.stage,
        devices=times.devices,
        prefill_s=mean_s("prefill"),
        decode_s=mean_s("decode"),
        busy_s=busy_s,
        idle_s=max(0.0, total_s - busy_s),
        waiting_s=sum(event.started_s - event.received_s for event in events),
        memory_bytes=times.memory_bytes,
    )
