"""A plan of one instance, and what it costs there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from llmpq_jax.costmodel.pipeline_schedule import Host, PhaseSeconds, pipeline_s
from llmpq_jax.costmodel.quality import is_within
from llmpq_jax.planner.instance.instance import Instance
from llmpq_jax.planner.instance.stage_bytes import stage_bytes
from llmpq_jax.schema.memory_terms import MemoryTerms

# Beside any ω.
_FORBIDDEN = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Which layers each device holds, at which precision.

    Attributes:
        devices: Used devices, as indices of axis J, in pipeline order.
        columns: For each of them its layers' precisions, as indices of axis B.
        wires: How each of them but the last hands on, as indices of axis O; none where
            all do it the first way.
    """

    devices: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]
    wires: tuple[int, ...] = ()

    @property
    def hops(self) -> list[tuple[int, int, int]]:
        """How, from where and to where hidden states are handed on: indices of a hop."""
        pairs = list(pairwise(self.devices))
        wires = self.wires or (0,) * len(pairs)
        return [(wire, j, k) for wire, (j, k) in zip(wires, pairs, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateCost:
    """What a placement costs.

    Attributes:
        seconds: Of the whole batch.
        prefill_s: Of each stage.
        decode_s: Of each stage.
        memory_bytes: Of each stage.
        omega: Σω, that of head, cache and hops included.
        objective: Latency plus θ·Σω.
        fits: Whether memory, pools, pins and budget hold.
    """

    seconds: PhaseSeconds
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]
    memory_bytes: tuple[int, ...]
    omega: float
    objective: float
    fits: bool


def evaluate(instance: Instance, candidate: Candidate) -> CandidateCost:
    """Adds up seconds, bytes and ω of a placement."""
    devices = candidate.devices
    prefill_s = [
        instance.dispatch_prefill_s[j]
        + sum(instance.layer_prefill_s[j, b] for b in columns)
        for j, columns in zip(devices, candidate.columns, strict=True)
    ]
    first, last = devices[0], devices[-1]
    calls_s = (
        instance.whole_dispatch_decode_s
        if first == last
        else instance.dispatch_decode_s
    )
    decode_s = [
        calls_s[j] + sum(instance.layer_decode_s[j, b] for b in columns)
        for j, columns in zip(devices, candidate.columns, strict=True)
    ]
    prefill_s[0] += instance.embedding_prefill_s[first]
    decode_s[0] += instance.embedding_decode_s[first]
    prefill_s[-1] += instance.head_prefill_s[last]
    decode_s[-1] += instance.head_decode_s[last]
    hops = candidate.hops
    seconds = pipeline_s(
        stages_prefill_s=prefill_s,
        stages_decode_s=decode_s,
        hops_prefill_s=[instance.hop_prefill_s[hop] for hop in hops],
        hops_decode_s=[instance.hop_decode_s[hop] for hop in hops],
        num_prefill=instance.num_prefill,
        num_decode=instance.num_decode,
        new_tokens=instance.new_tokens,
        hosts=stage_hosts(instance, devices),
    )
    layers = [b for columns in candidate.columns for b in columns]
    omega = instance.fixed_omega + float(
        instance.omega[range(len(layers)), layers].sum()
    )
    omega += float(sum(instance.wire_omega[wire] for wire, _, _ in hops))
    memory = tuple(
        stage_terms(instance, candidate, stage).total for stage in range(len(devices))
    )
    fits_memory = all(
        size <= instance.allowed_bytes[j]
        for j, size in zip(devices, memory, strict=True)
    )
    return CandidateCost(
        seconds=seconds,
        prefill_s=tuple(float(s) for s in prefill_s),
        decode_s=tuple(float(s) for s in decode_s),
        memory_bytes=memory,
        omega=omega,
        objective=seconds.latency_s + instance.theta * omega,
        fits=fits_memory
        and instance.has_devices_for(devices)
        and _keeps_pins(instance, candidate)
        and is_within(omega, instance.omega_budget),
    )


def with_min_omega(instance: Instance, candidate: Candidate) -> Candidate:
    """Deals each stage's precisions to its layers anew, for the least Σω.

    Seconds and bytes depend on how many layers a stage holds at each precision, not on
    which, so the new placement costs the same and loses no more.
    """
    first, dealt = 0, []
    for columns in candidate.columns:
        layers = np.arange(first, first + len(columns))
        loss = instance.omega[layers[:, None], list(columns)]
        # Dear, and not infinite: a choice that no pin allows is for `evaluate` to refuse.
        allowed = instance.may_have[layers[:, None], list(columns)]
        loss = np.where(allowed, loss, _FORBIDDEN * (1.0 + instance.omega.max()))
        dealt.append(tuple(columns[slot] for slot in linear_sum_assignment(loss)[1]))
        first += len(columns)
    return replace(candidate, columns=tuple(dealt))


def _keeps_pins(instance: Instance, candidate: Candidate) -> bool:
    held = [
        (j, b)
        for j, columns in zip(candidate.devices, candidate.columns, strict=True)
        for b in columns
    ]
    return all(
        instance.may_hold[layer, j] and instance.may_have[layer, b]
        for layer, (j, b) in enumerate(held)
    )


def stage_terms(instance: Instance, candidate: Candidate, stage: int) -> MemoryTerms:
    """Returns the bytes of one stage, by part."""
    columns = np.array(candidate.columns[stage], dtype=np.int64)
    counts = np.bincount(columns, minlength=len(instance.bits))
    return stage_bytes(
        instance,
        [candidate.devices[stage]],
        counts[None],
        is_first=stage == 0,
        is_last=stage == len(candidate.devices) - 1,
    ).terms(0, 0)


def stage_hosts(instance: Instance, devices: tuple[int, ...]) -> tuple[Host, ...]:
    """Returns the shared machines, by the stages on them."""
    return tuple(
        Host(
            members=tuple(
                stage
                for stage, j in enumerate(devices)
                for _ in range(host.members.count(j))
            ),
            prefill_serial=host.prefill_serial,
            decode_serial=host.decode_serial,
        )
        for host in instance.hosts
    )
