"""What a run did when, beside what was predicted; written as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_jax.files import write_text
from llmpq_jax.stage.hardware import Machine
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import StageEvent

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.phase_times import StagePhase


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
        peak: The most it held; absent in older records, and where it was lost at the end.
        machine: What it ran on; absent in older records.
    """

    stage: int
    devices: tuple[str, ...]
    prefill_s: float
    decode_s: float
    busy_s: float
    idle_s: float
    waiting_s: float
    memory_bytes: int
    peak: StagePeak | None = None
    machine: Machine | None = None


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
        events: All of it, in order of time, from the start of the batch; none where
            they were not kept.
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
