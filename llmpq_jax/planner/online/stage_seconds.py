"""Seconds of a plan's micro-batches when it serves requests as they come."""

from __future__ import annotations

from itertools import pairwise

from llmpq_jax.costmodel.micro_batch_latency import MicroBatchShape, micro_batch_s
from llmpq_jax.costmodel.online_load import OnlinePipeline
from llmpq_jax.planner.instance.candidate import stage_hosts
from llmpq_jax.planner.instance.device_seconds import gather_s, hop_s, transfers
from llmpq_jax.planner.instance.problem import Problem
from llmpq_jax.planner.whatif.from_strategy import incumbent_from_strategy
from llmpq_jax.schema.buckets import bucket_length, online_chunk_sizes
from llmpq_jax.schema.precision import HeadBits
from llmpq_jax.schema.strategy import Strategy

# Seconds of decode steps are looked up at multiples of this number of cached tokens.
_CONTEXT_STEP = 16


def online_pipeline(problem: Problem, strategy: Strategy) -> OnlinePipeline:
    """Predicts what a strategy takes for chunks of prompts and for decode steps.

    Raises:
        StrategyError: If the strategy does not suit the problem.
    """
    plan = incumbent_from_strategy(problem, strategy)
    stages = _Stages(problem, strategy, plan.candidate.devices)
    sizes = online_chunk_sizes(strategy.micro_batch.chunk_tokens, stages.num_slots)
    first = {size: stages.first_chunk_s(size) for size in sizes}
    return OnlinePipeline(
        num_groups=-(-strategy.workload.batch // stages.decode_rows),
        decode_rows=stages.decode_rows,
        num_slots=stages.num_slots,
        first_chunk_s=first,
        later_chunk_s={size: stages.later_chunk_s(size, first[size]) for size in sizes},
        chunk_hop_s={size: stages.hops_s(size) for size in sizes},
        dispatch_s=stages.dispatch_s,
        step_s=stages.step_s,
        step_hop_s=stages.hops_s(stages.decode_rows),
        hosts=stage_hosts(plan.instance, plan.candidate.devices),
    )


class _Stages:
    """The stages of a strategy on the execution units that hold them."""

    def __init__(
        self, problem: Problem, strategy: Strategy, devices: tuple[int, ...]
    ) -> None:
        self._problem = problem
        self._head_bits: HeadBits = strategy.precision.head_bits
        self._latency = problem.fitted[strategy.precision.kv_bits].latency
        units = [problem.execution_units[j] for j in devices]
        self._stages = list(zip(strategy.stages, units, strict=True))
        self._between_s = transfers(problem)
        self._known_step_s: dict[int, list[float]] = {}
        self.decode_rows = strategy.micro_batch.decode
        self.num_slots = bucket_length(strategy.workload.context_length)
        self.dispatch_s = [
            self._latency.dispatch_s(unit.kind, "decode") for unit in units
        ]

    def first_chunk_s(self, size: int) -> list[float]:
        """Returns each stage's seconds of a prompt's first chunk."""
        return self._stages_s(
            MicroBatchShape(phase="prefill", rows=1, tokens=size, slots=self.num_slots)
        )

    def later_chunk_s(self, size: int, first_s: list[float]) -> list[float]:
        """Returns those of a later one, which attends to the rest of the cache besides."""
        keys = self.num_slots - size
        return [
            own_s
            + sum(
                self._latency.attention_s(
                    unit.kind, bits, queries=size, keys=keys, tensor=unit.width
                )
                for bits in stage.bits
            )
            for own_s, (stage, unit) in zip(first_s, self._stages, strict=True)
        ]

    def step_s(self, num_cached: float) -> list[float]:
        """Returns those of a decode step, without the dispatch overhead of its call."""
        tokens = _CONTEXT_STEP * round(num_cached / _CONTEXT_STEP)
        tokens = max(1, min(tokens, self.num_slots))
        if tokens not in self._known_step_s:
            calls_s = self._stages_s(
                MicroBatchShape(
                    phase="decode",
                    rows=self.decode_rows,
                    tokens=tokens,
                    slots=self.num_slots,
                )
            )
            self._known_step_s[tokens] = [
                call_s - own_s
                for call_s, own_s in zip(calls_s, self.dispatch_s, strict=True)
            ]
        return self._known_step_s[tokens]

    def hops_s(self, num_tokens: int) -> list[float]:
        """Returns the seconds of each hop of a number of tokens."""
        return [
            hop_s(
                self._problem,
                source,
                target,
                num_tokens=num_tokens,
                wire_bits=stage.wire_bits,
                between_s=self._between_s,
            )
            for (stage, source), (_, target) in pairwise(self._stages)
        ]

    def _stages_s(self, shape: MicroBatchShape) -> list[float]:
        last = len(self._stages) - 1
        seconds = [
            micro_batch_s(
                self._latency,
                unit.kind,
                stage.bits,
                shape,
                has_embedding=number == 0,
                head_bits=self._head_bits if number == last else None,
                tensor=unit.width,
            )
            for number, (stage, unit) in enumerate(self._stages)
        ]
        unit = self._stages[last][1]
        seconds[last] += gather_s(self._problem, unit, shape.rows, self._between_s)
        return seconds
