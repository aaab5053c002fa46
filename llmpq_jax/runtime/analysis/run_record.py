"""Records of a run's batches, and the file of JSON lines that they are written to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_jax.files import json_text, write_text
from llmpq_jax.stage.hardware import Machine
from llmpq_jax.stage.memory_peak import StagePeak
from llmpq_jax.stage.message import StageEvent

if TYPE_CHECKING:
    from llmpq_jax.runtime.analysis.phase_times import StagePhase


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """One stage's times and memory in a batch.

    Attributes:
        stage: Number of the stage.
        devices: Full names of its devices.
        prefill_s: Mean seconds of one prefill micro-batch of the plan; 0 if there was
            none.
        decode_s: Mean seconds of one decode step of one group; 0 if there was none.
        busy_s: Seconds that the stage worked.
        idle_s: Seconds of the batch that the stage did not work.
        waiting_s: Seconds that messages waited in its inbox, summed over them.
        memory_bytes: Bytes of its weights and caches, on each device.
        peak: Peak memory; None in older records, and if the stage had failed at the end.
        machine: Hardware of the stage; None in older records.
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
    """Record of one run of requests.

    Attributes:
        num_requests: Number of requests served.
        num_new_tokens: Number of tokens generated.
        prefill_s: Seconds until each of the first prompts has its first token; prompts
            that waited for a slot count as decode.
        decode_s: Seconds from then to the last token.
        stages: Times and memory of each stage.
        events: Events in order of time, in seconds from the start of the run; empty if
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
        """Seconds of the whole run."""
        return self.prefill_s + self.decode_s


def write_run_record(
    path: Path,
    batches: Sequence[BatchRecord],
    header: dict[str, Any],
    phases: Sequence[Sequence[StagePhase]],
) -> None:
    """Writes a header, then of each batch its summary, stages' phases and events.

    The header has the command and the strategy; `phases` are each batch's
    `phase_times`.
    """
    lines = [json_text({"record": "run", **header})]
    for number, (batch, own) in enumerate(zip(batches, phases, strict=True)):
        summary = asdict(batch)
        events = summary.pop("events")
        lines.append(json_text({"record": "batch", "batch": number, **summary}))
        lines += [
            json_text({"record": "phase", "batch": number, **asdict(phase)})
            for phase in own
        ]
        lines += [
            json_text({"record": "event", "batch": number, **event}) for event in events
        ]
    write_text(path, "\n".join(lines) + "\n")
