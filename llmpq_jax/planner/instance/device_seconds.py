"""Predicts what each execution unit takes for one micro-batch of a phase.

A mesh's layers were measured as a mesh; its embedding and head are those of one device,
since each device of it embeds by itself and chooses from whole logits. Prompts that are
prefilled alone, between whole micro-batches, add a share of their seconds to each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from llmpq_jax.costmodel.continuous_batching import ExpectedSchedule
from llmpq_jax.costmodel.latency import LatencyModel, VocabularyLayer
from llmpq_jax.costmodel.links import transfer_s
from llmpq_jax.costmodel.memory import logit_share_bytes
from llmpq_jax.costmodel.refill_latency import RefillLatency
from llmpq_jax.planner.instance.execution_units import ExecutionUnit, for_each_unit
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.schema.measurements import PHASES, Phase
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    Bits,
    HeadBits,
    wire_token_bytes,
)
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload

_PerUnit = Float[np.ndarray, " J"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSeconds:
    """Seconds of one micro-batch of a phase; infinite where it was not measured.

    Attributes:
        problem: Execution units, and the bits on axis B.
        latency: Latency model for the bits of the cache.
        head_bits: Precision of the head.
        phase: Prefill, or one step of decode.
        rows: Rows of a micro-batch.
        num_tokens: Tokens that are embedded and sent over a hop.
        workload: Workload whose layers are run.
        refills: Prompts that are prefilled alone, as a share for each micro-batch.
        num_whole_calls: Calls for a micro-batch of a stage that holds the whole model.
    """

    problem: Problem
    latency: LatencyModel
    head_bits: HeadBits
    phase: Phase
    rows: int
    num_tokens: int
    workload: Workload
    refills: RefillLatency
    num_whole_calls: float

    def layer_s(self) -> Float[np.ndarray, "J B"]:
        """Seconds of one layer."""
        of_phase = {"prefill": self.latency.prefill_s, "decode": self.latency.decode_s}

        def seconds(kind: str, width: int, bits: Bits) -> float:
            if not self.latency.supports_layer(kind, bits, tensor=width):
                return np.inf
            return of_phase[self.phase](
                kind, bits, rows=self.rows, workload=self.workload, tensor=width
            ) + self.refills.layer_s(kind, bits, tensor=width)

        bits = self.problem.bits
        return self._for_each_unit(
            lambda kind, width: [seconds(kind, width, b) for b in bits]
        )

    def dispatch_s(self, *, num_calls: float = 1.0) -> _PerUnit:
        """Fixed dispatch overhead of a stage, in this many calls for a micro-batch."""
        return self._for_each_unit(
            lambda kind, _: (
                num_calls * self.latency.dispatch_s(kind, self.phase)
                + self.refills.dispatch_s(kind)
            )
        )

    def whole_dispatch_s(self) -> _PerUnit:
        """Dispatch overhead of a stage that holds the whole model."""
        return self.dispatch_s(num_calls=self.num_whole_calls)

    def embedding_s(self) -> _PerUnit:
        """Seconds of the embedding."""
        return self._vocabulary_layer_s("embedding", 16, rows=self.num_tokens)

    def head_s(self) -> _PerUnit:
        """Seconds of the head, with what a mesh takes to share its logits."""
        gather_s = _gather_s(self.problem, rows=self.rows)
        if self.refills.shares:
            # The head sees one row of each refill.
            num_refills = self.refills.sum(lambda _: 1.0)
            gather_s = gather_s + num_refills * _gather_s(self.problem, rows=1)
        return (
            self._vocabulary_layer_s("head", self.head_bits, rows=self.rows) + gather_s
        )

    def hop_s(self) -> Float[np.ndarray, "O J J"]:
        """Seconds of a hop between any two units; 0 from one to itself."""
        seconds = _hop_s(self.problem, num_tokens=self.num_tokens)
        for tokens, share in self.refills.shares:
            seconds = seconds + share * _hop_s(self.problem, num_tokens=tokens)
        return seconds

    def _vocabulary_layer_s(
        self, layer: VocabularyLayer, bits: HeadBits, *, rows: int
    ) -> _PerUnit:
        latency = self.latency

        def seconds(kind: str, _: int) -> float:
            if not latency.supports_vocabulary_layer(kind, layer, bits):
                return np.inf
            return latency.vocabulary_layer_s(
                kind, self.phase, layer, bits, rows=rows
            ) + self.refills.vocabulary_layer_s(kind, layer, bits)

        return self._for_each_unit(seconds)

    def _for_each_unit(
        self, ask: Callable[[str, int], float | list[float]]
    ) -> np.ndarray:
        return for_each_unit(self.problem.execution_units, ask)


def by_phase(
    problem: Problem,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    schedule: ExpectedSchedule,
) -> tuple[DeviceSeconds, ...]:
    """Returns what a subproblem's micro-batches are in each phase, [P]."""
    latency = problem.fitted[precision.kv_bits].latency
    rows = {"prefill": micro_batch.prefill, "decode": micro_batch.decode}
    tokens = {"prefill": schedule.padded_prompt_length, "decode": 1}
    first_prompts = Workload(
        batch=micro_batch.prefill,
        prompt_length=schedule.padded_prompt_length,
        new_tokens=1,
    )
    workloads = {"prefill": first_prompts, "decode": problem.request.workload}
    num_whole_calls = {"prefill": 1.0, "decode": schedule.dispatches_per_step}
    return tuple(
        DeviceSeconds(
            problem=problem,
            latency=latency,
            head_bits=precision.head_bits,
            phase=phase,
            rows=rows[phase],
            num_tokens=rows[phase] * tokens[phase],
            workload=workloads[phase],
            refills=RefillLatency(latency=latency, shares=schedule.refills_in(phase)),
            num_whole_calls=num_whole_calls[phase],
        )
        for phase in PHASES
    )


def _gather_s(problem: Problem, *, rows: int) -> _PerUnit:
    """What a mesh adds to the head's seconds on one device; 0 for a single device.

    Its devices compute a share of the logits each and send it to all others. The product
    itself counts as if it were not shared, since heads are measured on one device.
    """
    seconds: dict[tuple[str, str, int], float] = {}
    for unit in problem.execution_units:
        key = (unit.node_name, unit.kind, unit.width)
        if key not in seconds:
            share = logit_share_bytes(
                problem.request.architecture, rows=rows, tensor=unit.width
            )
            seconds[key] = (
                (unit.width - 1) * _between_s(problem, unit, unit, share)
                if share
                else 0.0
            )
    return np.array(
        [
            seconds[unit.node_name, unit.kind, unit.width]
            for unit in problem.execution_units
        ]
    )


def _hop_s(problem: Problem, *, num_tokens: int) -> Float[np.ndarray, "O J J"]:
    """Seconds of a hop between any two units, by the precision it is sent at.

    Each device of a mesh receives the whole of the hidden states, one after the other.
    """
    request, units = problem.request, problem.execution_units
    token_bytes = ACTIVATION_BYTES[request.activations]
    hidden_size = request.architecture.hidden_size
    sizes = [
        num_tokens * wire_token_bytes(hidden_size, token_bytes, wire_bits=bits)
        for bits in request.wire_bits
    ]
    # A hop depends on nodes and kinds alone, and measured links take a fit each.
    known: dict[tuple[str, str, str, str], list[float]] = {}
    seconds = np.zeros((len(sizes), len(units), len(units)))
    for j, source in enumerate(units):
        for k, target in enumerate(units):
            if j == k:
                continue
            key = (source.node_name, source.kind, target.node_name, target.kind)
            if key not in known:
                known[key] = [
                    _between_s(problem, source, target, size) for size in sizes
                ]
            seconds[:, j, k] = target.width * np.array(known[key])
    return seconds


def _between_s(
    problem: Problem, source: ExecutionUnit, target: ExecutionUnit, num_bytes: int
) -> float:
    return transfer_s(
        problem.request.cluster,
        problem.request.measurements,
        source=source.node_devices[0],
        target=target.node_devices[-1],
        num_bytes=num_bytes,
    )
