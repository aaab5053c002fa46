"""A plan of one instance, and what it costs there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from llmpq_jax.costmodel.pipeline_schedule import Host, PhaseSeconds, pipeline_s
from llmpq_jax.costmodel.quality import is_within
from llmpq_jax.planner.instance.device_numbers import DECODE, PREFILL
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.schema.memory_terms import MemoryTerms

# Loss of a forbidden precision, as a multiple of the largest ω.
_FORBIDDEN = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Which layers each device holds, at which precision.

    Attributes:
        devices: Used devices in pipeline order, as indices of axis J.
        bits_indices: Precisions of each device's layers, as indices of axis B.
        wire_indices: Precision at which each device but the last sends, as indices of
            axis O; empty if all send at the first one.
    """

    devices: tuple[int, ...]
    bits_indices: tuple[tuple[int, ...], ...]
    wire_indices: tuple[int, ...] = ()

    @property
    def hops(self) -> list[tuple[int, int, int]]:
        """Hops between consecutive devices, as indices of axes O, J and J."""
        pairs = list(pairwise(self.devices))
        wires = self.wire_indices or (0,) * len(pairs)
        return [(wire, j, k) for wire, (j, k) in zip(wires, pairs, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateCost:
    """What a candidate costs.

    Attributes:
        seconds: Seconds of the whole batch.
        stages_s: Seconds of each stage by phase, [P][stages]: of one prefill micro-batch,
            and of one decode step of one micro-batch.
        hops_s: Seconds of each hop by phase, [P][hops].
        memory_bytes: Bytes of each stage.
        omega: Σω of layers, head, cache and hops.
        objective: Latency plus θ·Σω.
        fits: Whether memory, device groups, pins and budget hold.
    """

    seconds: PhaseSeconds
    stages_s: tuple[tuple[float, ...], ...]
    hops_s: tuple[tuple[float, ...], ...]
    memory_bytes: tuple[int, ...]
    omega: float
    objective: float
    fits: bool


def evaluate(instance: Instance, candidate: Candidate) -> CandidateCost:
    """Adds up the seconds, bytes and ω of a candidate."""
    devices, hops = candidate.devices, candidate.hops
    stages_s = tuple(_stages_s(instance, candidate, p) for p in (PREFILL, DECODE))
    hops_s = tuple(
        tuple(float(instance.hop_s[p][hop]) for hop in hops) for p in (PREFILL, DECODE)
    )
    seconds = pipeline_s(
        stages_s=stages_s,
        hops_s=hops_s,
        num_micro_batches=instance.num_micro_batches,
        new_tokens=instance.new_tokens,
        hosts=stage_hosts(instance, devices),
    )
    layers = [b for own in candidate.bits_indices for b in own]
    omega = instance.fixed_omega + float(
        instance.omega[range(len(layers)), layers].sum()
    )
    omega += float(sum(instance.wire_omega[wire] for wire, _, _ in hops))
    memory = tuple(
        stage_terms(instance, candidate, stage).total for stage in range(len(devices))
    )
    fits_memory = all(
        size <= instance.devices.allowed_bytes[j]
        for j, size in zip(devices, memory, strict=True)
    )
    return CandidateCost(
        seconds=seconds,
        stages_s=stages_s,
        hops_s=hops_s,
        memory_bytes=memory,
        omega=omega,
        objective=seconds.latency_s + instance.theta * omega,
        fits=fits_memory
        and instance.has_devices_for(devices)
        and _keeps_pins(instance, candidate)
        and is_within(omega, instance.omega_budget),
    )


def _stages_s(instance: Instance, candidate: Candidate, p: int) -> tuple[float, ...]:
    """Seconds of each stage in phase p: dispatch, layers, embedding and head."""
    d, devices = instance.devices, candidate.devices
    dispatch_s = d.whole_dispatch_s if len(devices) == 1 else d.dispatch_s
    seconds = [
        dispatch_s[p, j] + sum(d.layer_s[p, j, b] for b in own)
        for j, own in zip(devices, candidate.bits_indices, strict=True)
    ]
    seconds[0] += d.embedding_s[p, devices[0]]
    seconds[-1] += d.head_s[p, devices[-1]]
    return tuple(float(each) for each in seconds)


def with_min_omega(instance: Instance, candidate: Candidate) -> Candidate:
    """Assigns each stage's precisions to its layers so that Σω is least.

    Seconds and bytes depend on how many layers a stage holds at each precision, not on
    which, so the new candidate costs the same and loses no more.
    """
    first, assigned = 0, []
    for own in candidate.bits_indices:
        layers = np.arange(first, first + len(own))
        loss = instance.omega[layers[:, None], list(own)]
        # Large, not infinite: a precision that no pin allows is for `evaluate` to refuse.
        allowed = instance.may_have[layers[:, None], list(own)]
        loss = np.where(allowed, loss, _FORBIDDEN * (1.0 + instance.omega.max()))
        assigned.append(tuple(own[slot] for slot in linear_sum_assignment(loss)[1]))
        first += len(own)
    return replace(candidate, bits_indices=tuple(assigned))


def _keeps_pins(instance: Instance, candidate: Candidate) -> bool:
    lengths = [len(own) for own in candidate.bits_indices]
    j, b = np.repeat(candidate.devices, lengths), np.concatenate(candidate.bits_indices)
    i = np.arange(len(b))
    return bool((instance.devices.may_hold[i, j] & instance.may_have[i, b]).all())


def bits_counts(instance: Instance, bits_indices: tuple[int, ...]) -> np.ndarray:
    """Returns the number of layers at each precision, [B]."""
    indices = np.array(bits_indices, dtype=np.int64)
    return np.bincount(indices, minlength=len(instance.bits))


def stage_terms(instance: Instance, candidate: Candidate, stage: int) -> MemoryTerms:
    """Returns the bytes of one stage, by part."""
    return stage_bytes(
        instance,
        [candidate.devices[stage]],
        bits_counts(instance, candidate.bits_indices[stage])[None],
        is_first=stage == 0,
        is_last=stage == len(candidate.devices) - 1,
    ).terms(0, 0)


def stage_hosts(instance: Instance, devices: tuple[int, ...]) -> tuple[Host, ...]:
    """Returns the shared machines, with the stages on them as members."""
    return tuple(
        replace(
            host,
            members=tuple(
                stage
                for stage, j in enumerate(devices)
                for _ in range(host.members.count(j))
            ),
        )
        for host in instance.hosts
    )
