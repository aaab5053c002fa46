"""What one stage of a plan takes on each of its devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmpq_jax.costmodel.memory import layer_scale_bytes
from llmpq_jax.planner.instance.build import workspace_bytes
from llmpq_jax.planner.instance.candidate import (
    Candidate,
    CandidateCost,
    bits_counts,
    stage_terms,
)
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance, Integers
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.schema.measurements import PHASES, Phase
from llmpq_jax.schema.memory_terms import MemoryTerms
from llmpq_jax.schema.precision import Bits
from llmpq_jax.schema.strategy import Stage


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBreakdown:
    """What one stage takes on each of its devices.

    Attributes:
        layers: First layer, and end of its layers, exclusive.
        scales: Bytes of the scales among the weights.
        workspace: Bytes of workspace by phase; the larger one is counted.
        reserve_bytes: Bytes of the device that no plan may fill.
        allowed_bytes: Bytes that a plan may fill.
        next_bits_bytes: Fewest bytes that one layer at its next higher precision adds;
            None if there is no higher precision.
        next_layer_bytes: Fewest bytes that one more layer adds.
        prefill_s: Seconds of one prefill micro-batch.
        decode_s: Seconds of one decode step of one micro-batch.
    """

    devices: tuple[str, ...]
    layers: tuple[int, int]
    bits: tuple[Bits, ...]
    memory: MemoryTerms
    scales: int
    workspace: dict[Phase, int]
    reserve_bytes: int
    allowed_bytes: int
    next_bits_bytes: int | None
    next_layer_bytes: int
    prefill_s: float
    decode_s: float

    @property
    def spare_bytes(self) -> int:
        """Bytes that are left; negative if the stage does not fit."""
        return self.allowed_bytes - self.memory.total

    @property
    def is_full(self) -> bool:
        """Whether neither one more layer nor a layer at more bits fits."""
        needed = self.next_layer_bytes
        if self.next_bits_bytes is not None:
            needed = min(needed, self.next_bits_bytes)
        return self.spare_bytes < needed


def break_down_stage(
    problem: Problem,
    plan: Incumbent,
    cost: CandidateCost,
    number: int,
    stage: Stage,
) -> StageBreakdown:
    """Breaks one stage of a plan down: its number-th, `stage` in the plan's file."""
    instance, candidate, request = plan.instance, plan.candidate, problem.request
    unit = problem.execution_units[candidate.devices[number]]
    next_bits, next_layer = _next_bytes(instance, candidate, number)
    return StageBreakdown(
        devices=stage.devices,
        layers=stage.layers,
        bits=stage.bits,
        memory=stage_terms(instance, candidate, number),
        scales=sum(
            layer_scale_bytes(
                request.architecture,
                bits=bits,
                group_size=request.group_size,
                tensor=unit.width,
            )
            for bits in stage.bits
        ),
        workspace={phase: _workspace(problem, plan, number, phase) for phase in PHASES},
        reserve_bytes=unit.node_devices[0].device.reserve_bytes,
        allowed_bytes=int(instance.devices.allowed_bytes[candidate.devices[number]]),
        next_bits_bytes=next_bits,
        next_layer_bytes=next_layer,
        prefill_s=cost.stages_s[PREFILL][number],
        decode_s=cost.stages_s[DECODE][number],
    )


def _next_bytes(
    instance: Instance, candidate: Candidate, number: int
) -> tuple[int | None, int]:
    """Fewest bytes that a layer at its next higher precision adds, and one more layer."""
    j = candidate.devices[number]
    counts = bits_counts(instance, candidate.bits_indices[number])
    served = np.flatnonzero(instance.devices.supported[j]).tolist()
    one = np.eye(len(instance.bits), dtype=np.int64)
    higher = [
        counts - one[b] + one[max(above)]
        for b in set(candidate.bits_indices[number])
        if (above := [up for up in served if up < b])
    ]
    longer = [counts + one[b] for b in served]

    def added(stages: list[Integers]) -> int:
        need = stage_bytes(
            instance,
            [j],
            np.array([counts, *stages]),
            is_first=number == 0,
            is_last=number == len(candidate.devices) - 1,
        ).total[0]
        return int((need[1:] - need[0]).min())

    return added(higher) if higher else None, added(longer)


def _workspace(problem: Problem, plan: Incumbent, number: int, phase: Phase) -> int:
    """Bytes of workspace that the programs of one phase need."""
    i = plan.instance
    precision = problem.precision(i.head_bits, i.kv_bits)
    needs = workspace_bytes(problem, i.micro_batch, precision, phases=(phase,))
    alone = replace(i, devices=replace(i.devices, **needs))
    return stage_terms(alone, plan.candidate, number).workspace
