"""What a run did when, beside what was predicted; written as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_jax.spec._toml import write_text
from llmpq_jax.spec.strategy import Strategy
from llmpq_jax.stage.message import StageEvent

if TYPE_CHECKING:
    from llmpq_jax.runtime.phase_times import StagePhase


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """One stage's share of a batch.

    Attributes:
        stage: Its number.
        devices: Their full names.
        prefill_s: Mean seconds of one prefill micro-batch of the plan; 0 if there was
            none.
        decode_s: Mean seconds of one decode step of one group; 0 if there was none.
        busy_s: Seconds it worked.
        idle_s: Seconds of the batch it did not.
        waiting_s: Seconds its messages lay in its inbox, summed over them.
        memory_bytes: Weights and caches it held on each device.
    """

    stage: int
    devices: tuple[str, ...]
    prefill_s: float
    decode_s: float
    busy_s: float
    idle_s: float
    waiting_s: float
    memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRecord:
    """One run of requests.

    Attributes:
        num_requests: Served in it.
        num_new_tokens: Generated in it.
        prefill_s: From its first prompt sent until every row of the batch has its first
            token; prompts that take a place later count as decode.
        decode_s: From there to its last token.
        stages: Each stage's share.
        events: All of it, in order of time, from the start of the batch.
    """

    num_requests: int
    num_new_tokens: int
    prefill_s: float
    decode_s: float
    stages: tuple[StageTimes, ...]
    events: tuple[StageEvent, ...]

    @property
    def latency_s(self) -> float:
        """Seconds of the whole batch."""
        return self.prefill_s + self.decode_s


def summarize_batch(
    strategy: Strategy,
    events: Iterable[StageEvent],
    *,
    started_s: float,
    ended_s: float,
    num_first_prefills: int,
    num_requests: int,
    num_new_tokens: int,
    memory_bytes: Sequence[int],
) -> BatchRecord:
    """Adds the events of a run up.

    Args:
        strategy: That was run.
        events: Of all stages.
        started_s: Of the run, on the events' clock.
        ended_s: Likewise.
        num_first_prefills: Prefill micro-batches of the plan; what is numbered higher
            gave a place that fell free to a request that waited.
        num_requests: Served.
        num_new_tokens: Generated.
        memory_bytes: Held by each stage.
    """
    shifted = sorted(
        (
            StageEvent(
                stage=event.stage,
                phase=event.phase,
                micro_batch=event.micro_batch,
                step=event.step,
                num_steps=event.num_steps,
                received_s=event.received_s - started_s,
                started_s=event.started_s - started_s,
                ended_s=event.ended_s - started_s,
            )
            for event in events
        ),
        key=lambda event: (event.started_s, event.stage),
    )
    total_s = ended_s - started_s
    later = {
        event
        for event in shifted
        if event.phase == "prefill" and event.micro_batch >= num_first_prefills
    }
    planned = [event for event in shifted if event not in later]
    # Absent where a stage was lost, and with it what is known of its first prefills.
    prefill_s = max(
        (event.ended_s for event in planned if event.phase == "prefill"), default=0.0
    )
    stages = tuple(
        _stage_times(
            number,
            stage.devices,
            [event for event in shifted if event.stage == number],
            [event for event in planned if event.stage == number],
            total_s,
            memory_bytes[number],
        )
        for number, stage in enumerate(strategy.stages)
    )
    return BatchRecord(
        num_requests=num_requests,
        num_new_tokens=num_new_tokens,
        prefill_s=prefill_s,
        decode_s=max(0.0, total_s - prefill_s),
        stages=stages,
        events=tuple(shifted),
    )


def write_run_record(
    path: Path,
    batches: Sequence[BatchRecord],
    header: dict[str, Any],
    phases: Sequence[Sequence[StagePhase]],
) -> None:
    """Writes a header line, then for each batch a summary, its stages' phases, its events.

    Args:
        path: Of the record.
        batches: What each did when.
        header: Of the whole run.
        phases: Of each batch, what its stages did in each phase: `phase_times`.
    """
    lines = [json.dumps({"record": "run", **header})]
    for number, (batch, own) in enumerate(zip(batches, phases, strict=True)):
        summary = asdict(batch)
        events = summary.pop("events")
        lines.append(json.dumps({"record": "batch", "batch": number, **summary}))
        lines += [
            json.dumps({"record": "phase", "batch": number, **asdict(phase)})
            for phase in own
        ]
        lines += [
            json.dumps({"record": "event", "batch": number, **event})
            for event in events
        ]
    write_text(path, "\n".join(lines) + "\n")


def _stage_times(
    number: int,
    devices: tuple[str, ...],
    events: list[StageEvent],
    planned: list[StageEvent],
    total_s: float,
    memory_bytes: int,
) -> StageTimes:
    """Adds a stage's events up; means are over the planned ones."""

    def mean_s(phase: str) -> float:
        own = [event for event in planned if event.phase == phase]
        # The chunks of a long prompt are one micro-batch.
        num_passes = sum(
            event.num_steps for event in own if phase == "decode" or event.step == 0
        )
        busy_s = sum(event.ended_s - event.started_s for event in own)
        return busy_s / num_passes if num_passes else 0.0

    busy_s = sum(event.ended_s - event.started_s for event in events)
    return StageTimes(
        stage=number,
        devices=devices,
        prefill_s=mean_s("prefill"),
        decode_s=mean_s("decode"),
        busy_s=busy_s,
        idle_s=max(0.0, total_s - busy_s),
        waiting_s=sum(event.started_s - event.received_s for event in events),
        memory_bytes=memory_bytes,
    )
