"""Predicts what each execution unit takes for one micro-batch of a phase.

A mesh's layers were measured as a mesh; its embedding and head are those of one device,
since each device of it embeds by itself and chooses from whole logits. Refills, prompts
that are prefilled alone between whole micro-batches, add a share of their seconds to each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float

from llmpq_jax.costmodel.continuous_batching import ExpectedSchedule
from llmpq_jax.costmodel.latency import VocabularyLayer
from llmpq_jax.costmodel.links import transfer_s
from llmpq_jax.costmodel.memory import logit_share_bytes
from llmpq_jax.planner.instance.execution_units import ExecutionUnit, for_each_unit
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.precision import (
    ACTIVATION_BYTES,
    HeadBits,
    WireBits,
    vector_bits,
    wire_token_bytes,
)
from llmpq_jax.schema.strategy import PrecisionChoice
from llmpq_jax.schema.workload import MicroBatch, Workload

BetweenS = Callable[[ExecutionUnit, ExecutionUnit, int], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class _PhaseWork:
    """What a phase's micro-batches are: their rows, and the tokens embedded and sent.

    Refills are pairs of padded prompt length and their number per micro-batch. A stage that
    holds the whole model takes `num_whole_calls` for a micro-batch.
    """

    phase: Phase
    rows: int
    num_tokens: int
    workload: Workload
    refills: tuple[tuple[int, float], ...]
    num_whole_calls: float = 1.0

    def refills_s(self, of_length: Callable[[int], float]) -> float:
        """Sums a function of the padded prompt length over the refills."""
        return sum((share * of_length(tokens) for tokens, share in self.refills), 0.0)


def seconds_by_phase(
    problem: Problem,
    micro_batch: MicroBatch,
    precision: PrecisionChoice,
    schedule: ExpectedSchedule,
) -> dict[str, np.ndarray]:
    """Returns the numbers that end in `_s` of an instance and its devices, by name.

    They are infinite where a unit was not measured.
    """
    first_prompts = Workload(
        batch=micro_batch.prefill,
        prompt_length=schedule.padded_prompt_length,
        new_tokens=1,
    )
    prefill = _PhaseWork(
        phase="prefill",
        rows=micro_batch.prefill,
        num_tokens=micro_batch.prefill * schedule.padded_prompt_length,
        workload=first_prompts,
        refills=schedule.refills_in("prefill"),
    )
    decode = _PhaseWork(
        phase="decode",
        rows=micro_batch.decode,
        num_tokens=micro_batch.decode,
        workload=problem.request.workload,
        refills=schedule.refills_in("decode"),
        num_whole_calls=schedule.dispatches_per_step,
    )
    between_s = transfers(problem)
    phases = [_seconds(problem, precision, w, between_s) for w in (prefill, decode)]
    return {name: np.stack([own[name] for own in phases]) for name in phases[0]}


def _seconds(
    problem: Problem,
    precision: PrecisionChoice,
    work: _PhaseWork,
    between_s: BetweenS,
) -> dict[str, np.ndarray]:
    """Returns the seconds of one phase, each number without its axis P."""
    latency, units = problem.fitted[precision.kv_bits].latency, problem.execution_units
    phase, rows = work.phase, work.rows
    of_phase = latency.prefill_s if phase == "prefill" else latency.decode_s

    def layer_s(kind: str, width: int) -> list[float]:
        return [
            of_phase(kind, bits, rows=rows, workload=work.workload, tensor=width)
            + work.refills_s(
                lambda tokens, bits=bits: latency.layer_s(
                    kind, "prefill", bits, rows=1, lengths=tokens, tensor=width
                )
            )
            if latency.supports_layer(kind, bits, tensor=width)
            else np.inf
            for bits in problem.bits
        ]

    def dispatch_s(num_calls: float) -> np.ndarray:
        return for_each_unit(
            units,
            lambda kind, _: (
                num_calls * latency.dispatch_s(kind, phase)
                + work.refills_s(lambda _: latency.dispatch_s(kind, "prefill"))
            ),
        )

    def vocabulary_layer_s(
        layer: VocabularyLayer, bits: HeadBits, num_rows: int
    ) -> np.ndarray:
        def seconds(kind: str, _: int) -> float:
            if not latency.supports_vocabulary_layer(kind, layer, bits):
                return np.inf
            own_s = latency.vocabulary_layer_s(kind, phase, layer, bits, rows=num_rows)
            # The head sees one row of each refill.
            return own_s + work.refills_s(
                lambda tokens: latency.vocabulary_layer_s(
                    kind,
                    "prefill",
                    layer,
                    bits,
                    rows=tokens if layer == "embedding" else 1,
                )
            )

        return for_each_unit(units, seconds)

    return {
        "layer_s": for_each_unit(units, layer_s),
        "dispatch_s": dispatch_s(1.0),
        "whole_dispatch_s": dispatch_s(work.num_whole_calls),
        "embedding_s": vocabulary_layer_s(
            "embedding", vector_bits(precision.head_bits), work.num_tokens
        ),
        "head_s": vocabulary_layer_s("head", precision.head_bits, rows)
        + _gather_s(problem, work, between_s),
        "hop_s": _hop_s(problem, work, between_s),
    }


def gather_s(
    problem: Problem, unit: ExecutionUnit, rows: int, between_s: BetweenS
) -> float:
    """Returns the seconds in which the devices of a unit send each other their logits."""
    share = logit_share_bytes(
        problem.request.architecture, rows=rows, tensor=unit.width
    )
    return (unit.width - 1) * between_s(unit, unit, share) if share else 0.0


def hop_s(
    problem: Problem,
    source: ExecutionUnit,
    target: ExecutionUnit,
    *,
    num_tokens: int,
    wire_bits: WireBits,
    between_s: BetweenS,
) -> float:
    """Returns the seconds of sending hidden states from one unit to another.

    Each device of a mesh receives the whole of them, one after the other.
    """
    request = problem.request
    token_bytes = wire_token_bytes(
        request.architecture.hidden_size,
        ACTIVATION_BYTES[request.activations],
        wire_bits=wire_bits,
    )
    return target.width * between_s(source, target, num_tokens * token_bytes)


def _gather_s(
    problem: Problem, work: _PhaseWork, between_s: BetweenS
) -> Float[np.ndarray, " J"]:
    """What a mesh adds to the head's seconds on one device; 0 for a single device.

    Its devices compute a share of the logits each and send it to all others. The product
    itself counts as if it were not shared, since heads are measured on one device.
    """
    num_refills = work.refills_s(lambda _: 1.0)
    return np.array(
        [
            gather_s(problem, unit, work.rows, between_s)
            + num_refills * gather_s(problem, unit, 1, between_s)
            for unit in problem.execution_units
        ]
    )


def _hop_s(
    problem: Problem, work: _PhaseWork, between_s: BetweenS
) -> Float[np.ndarray, "O J J"]:
    """Seconds of a hop between any two units, by the precision it is sent at."""
    request, units = problem.request, problem.execution_units
    seconds = np.zeros((len(request.wire_bits), len(units), len(units)))
    for o, bits in enumerate(request.wire_bits):
        for tokens, share in ((work.num_tokens, 1.0), *work.refills):
            for (j, source), (k, target) in permutations(enumerate(units), 2):
                seconds[o, j, k] += share * hop_s(
                    problem,
                    source,
                    target,
                    num_tokens=tokens,
                    wire_bits=bits,
                    between_s=between_s,
                )
    return seconds


def transfers(problem: Problem) -> BetweenS:
    """Returns the seconds of one transfer between two units as a function.

    They depend on nodes and kinds alone, and all measured links are searched for each.
    """
    known: dict[tuple[str, str, str, str, int], float] = {}

    def between_s(
        source: ExecutionUnit, target: ExecutionUnit, num_bytes: int
    ) -> float:
        key = (source.node_name, source.kind, target.node_name, target.kind, num_bytes)
        if key not in known:
            known[key] = transfer_s(
                problem.request.cluster,
                problem.request.measurements,
                source=source.node_devices[0],
                target=target.node_devices[-1],
                num_bytes=num_bytes,
            )
        return known[key]

    return between_s
