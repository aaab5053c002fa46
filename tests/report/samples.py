"""A made-up plan and a made-up run of it, whose times follow the pipeline's rules."""

from __future__ import annotations

from llmpq_jax.runtime.analysis.batch_recorder import BatchRecorder
from llmpq_jax.runtime.analysis.run_record import BatchRecord
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import (
    Certificate,
    Mesh,
    ModelReference,
    PrecisionChoice,
    Prediction,
    Quality,
    Stage,
    StagePrediction,
    Strategy,
)
from llmpq_jax.schema.workload import MicroBatch, Workload
from llmpq_jax.stage.hardware import Machine
from llmpq_jax.stage.memory_peak import PeakSource, StagePeak
from llmpq_jax.stage.message import StageEvent

MIB = 1 << 20
MACHINE = Machine(
    device="made-up", driver="made-up", jax_version="0.0", kernel_path="xla"
)


def strategy() -> Strategy:
    """Three stages, the last one on a mesh."""
    return Strategy(
        model=ModelReference(
            path="models/tiny",
            architecture="llama",
            num_layers=8,
            fingerprint="sha256:0",
        ),
        workload=Workload(batch=8, prompt_length=16, new_tokens=16),
        micro_batch=MicroBatch(prefill=2, decode=4),
        precision=PrecisionChoice(activations="float32"),
        stages=(
            _stage("node0/cpu:0", (0, 5), (16, 8, 8, 8, 4), 4e-3, 1e-3, 7 * MIB),
            _stage("node0/cpu:1", (5, 6), (8,), 2e-3, 5e-4, 3 * MIB),
            Stage(
                mesh=Mesh(devices=("node0/cpu:2", "node0/cpu:3"), tensor=2),
                layers=(6, 8),
                bits=(4, 4),
                predicted=StagePrediction(
                    prefill_s=3e-3,
                    decode_s=7e-4,
                    memory_bytes=2 * MIB,
                    allowed_bytes=8 * MIB,
                ),
            ),
        ),
        quality=Quality(
            omega=0.1, budget=0.12, method="weight-variance", note="a note"
        ),
        predicted=Prediction(
            prefill_s=0.02, decode_s=0.08, latency_s=0.1, throughput_tokens_per_s=1280.0
        ),
        certificate=Certificate(
            gap=0.0,
            objective=0.1,
            bound=0.1,
            covers="all cuts",
            solver="HiGHS 1",
            seconds=2.0,
        ),
    )


def batch(*, num_steps: int = 15) -> BatchRecord:
    """Four prefill micro-batches, then two decode groups for so many steps."""
    plan = strategy()
    free_s = [0.0] * len(plan.stages)
    events: list[StageEvent] = []

    def run(phase: str, micro_batch: int, step: int, ready_s: float) -> float:
        for number, stage in enumerate(plan.stages):
            assert stage.predicted is not None
            is_prefill = phase == "prefill"
            took = stage.predicted.prefill_s if is_prefill else stage.predicted.decode_s
            started_s = max(ready_s, free_s[number])
            events.append(
                StageEvent(
                    stage=number,
                    phase="prefill" if is_prefill else "decode",
                    micro_batch=micro_batch,
                    step=step,
                    received_s=ready_s,
                    started_s=started_s,
                    ended_s=started_s + took,
                )
            )
            free_s[number] = ready_s = started_s + took
        return ready_s

    ends = [run("prefill", number, 0, 0.0) for number in range(4)]
    ready = [ends[1], ends[3]]
    for step in range(1, num_steps + 1):
        ready = [run("decode", group, step, ready[group]) for group in range(2)]
    summary = BatchRecorder(plan, started_s=0.0, num_first_prefills=4)
    summary.add(events)
    return summary.record(
        ended_s=max(ready),
        num_requests=8,
        num_new_tokens=8 * (num_steps + 1),
        memory_bytes=[6 * MIB, 3 * MIB, MIB],
        peaks={
            0: _peak(5 * MIB, MIB, MIB, source="compiler"),
            2: _peak(MIB // 2, MIB // 2, 0, source="device", peak_bytes=4 * MIB),
        },
        machines=[MACHINE] * 3,
    )


def _peak(
    weights: int,
    kv_cache: int,
    programs: int,
    *,
    source: PeakSource,
    peak_bytes: int | None = None,
) -> StagePeak:
    return StagePeak(
        peak_bytes=peak_bytes or weights + kv_cache + programs,
        source=source,
        weights=weights,
        kv_cache=kv_cache,
        programs=programs,
        waiting=0,
    )


def _stage(
    device: str,
    layers: tuple[int, int],
    bits: tuple[Bits, ...],
    prefill_s: float,
    decode_s: float,
    memory_bytes: int,
) -> Stage:
    return Stage(
        device=device,
        layers=layers,
        bits=bits,
        predicted=StagePrediction(
            prefill_s=prefill_s,
            decode_s=decode_s,
            memory_bytes=memory_bytes,
            allowed_bytes=8 * MIB,
        ),
    )
