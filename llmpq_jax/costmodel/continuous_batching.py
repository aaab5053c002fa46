"""Micro-batches, decode rounds and refills that the scheduler makes of a workload.

The scheduler (`runtime/scheduler.py`) serves sequences with the most new tokens first. It
fills its decode groups, pads their prompts to the longest of them, and decodes each group as
a whole until its longest sequence has finished. When a sequence finishes while prompts wait,
the next prompt takes its slot (a refill): it is prefilled alone, padded to its own bucket,
before its group continues to decode.

So a decode round has as many steps as there are busy groups. With k_r busy groups in round
r of R, and D over stages and hops as in `pipeline_schedule`, the rounds take

    ΣD + (k_R − 1)·max D + Σ_{r<R} max(k_r·max D, ΣD)

(the simulation in the tests agrees). The planner uses the mean m = Σ k_r / R for each k_r
in the formula of `pipeline_schedule`. The two are equal if every round, or none, keeps the
slowest stage busy; otherwise the plan is lower by the difference between a mean of maxima
and the maximum of means. Refills are spread evenly over the decode steps, which keeps the
total work of every stage and makes a group wait for its refills.

A stage that holds the whole model takes several decode steps per call: as many as the
group's longest sequence still needs or, while prompts wait, until its next slot is free.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from llmpq_jax.costmodel.memory import cache_rows
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL, bucket_length
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.workload import MicroBatch, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedSchedule:
    """How the scheduler is expected to serve a workload.

    Attributes:
        padded_prompt_length: Bucket that the prompts of the first prefills are padded to.
        num_prefill: Number of micro-batches of the first prefills.
        num_rounds: Decode steps of the group that decodes longest.
        num_decode: Busy groups per decode round, mean over the rounds; at least 1.
        refills: Pairs of padded prompt length and refills of that length per decode step
            of any group; per first prefill if there is no decode step.
        dispatches_per_step: Calls of a stage that holds the whole model, per decode step
            of any group; at most 1.
    """

    padded_prompt_length: int
    num_prefill: int
    num_rounds: int
    num_decode: float
    refills: tuple[tuple[int, float], ...] = ()
    dispatches_per_step: float = 1.0

    @property
    def new_tokens(self) -> int:
        """New tokens of a fixed batch with the same number of rounds."""
        return self.num_rounds + 1

    def refills_in(self, phase: Phase) -> tuple[tuple[int, float], ...]:
        """Returns the refills that are charged to a phase's micro-batches."""
        return self.refills if (phase == "decode") == (self.num_rounds > 0) else ()


def expected_schedule(workload: Workload, micro_batch: MicroBatch) -> ExpectedSchedule:
    """Returns the schedule of a workload: simulated if its prompts differ."""
    if workload.lengths is None:
        num_rounds = workload.expected(workload.new_tokens) - 1
        return ExpectedSchedule(
            padded_prompt_length=bucket_length(workload.prompt_length),
            num_prefill=-(-workload.batch // micro_batch.prefill),
            num_rounds=num_rounds,
            num_decode=-(-workload.batch // micro_batch.decode),
            dispatches_per_step=_num_calls(num_rounds) / num_rounds
            if num_rounds
            else 1.0,
        )
    sequences = list(
        chain.from_iterable(
            repeat((prompt, workload.expected(new_tokens) - 1), count)
            for prompt, new_tokens, count in workload.lengths
        )
    )
    num_slots = cache_rows(workload, micro_batch)
    first, waiting = sequences[:num_slots], sequences[num_slots:]
    num_prefill = -(-len(first) // micro_batch.prefill)
    decode = _count_decode(
        [steps for _, steps in first],
        [steps for _, steps in waiting],
        group_size=micro_batch.decode,
    )
    num_steps = decode.num_steps
    refills = Counter(prompt for prompt, _ in waiting)
    return ExpectedSchedule(
        padded_prompt_length=max(prompt for prompt, _ in first),
        num_prefill=num_prefill,
        num_rounds=decode.num_rounds,
        num_decode=num_steps / decode.num_rounds if decode.num_rounds else 1,
        refills=tuple(
            (tokens, count / (num_steps or num_prefill))
            for tokens, count in sorted(refills.items())
        ),
        dispatches_per_step=decode.num_calls / num_steps if num_steps else 1.0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _DecodeCounts:
    """What all decode groups take together.

    Attributes:
        num_steps: Decode steps, summed over the groups.
        num_rounds: Decode steps of the group that decodes longest.
        num_calls: Calls of a stage that holds the whole model.
    """

    num_steps: int
    num_rounds: int
    num_calls: int


def _count_decode(
    first: Sequence[int], waiting: Sequence[int], *, group_size: int
) -> _DecodeCounts:
    """Simulates decode groups whose freed slots are refilled in the order of service.

    Args:
        first: Decode steps of the sequences that fill the slots at the start.
        waiting: Decode steps of the sequences that wait for a slot.
        group_size: Number of slots of a decode group.
    """
    num_groups = -(-len(first) // group_size)
    # Step at which each group's last call ended because one of its slots was refilled.
    refilled, num_calls = [0] * num_groups, 0
    # When each slot becomes free: by step, then in the order of the groups.
    free = [(steps, slot // group_size) for slot, steps in enumerate(first)]
    last_step = [0] * num_groups
    for steps, group in free:
        last_step[group] = max(last_step[group], steps)
    heapq.heapify(free)
    for steps in waiting:
        now, group = free[0]
        num_calls += _num_calls(now - refilled[group])
        refilled[group] = now
        last_step[group] = max(last_step[group], now + steps)
        heapq.heapreplace(free, (now + steps, group))
    num_calls += sum(
        _num_calls(last - step) for last, step in zip(last_step, refilled, strict=True)
    )
    return _DecodeCounts(
        num_steps=sum(last_step), num_rounds=max(last_step), num_calls=num_calls
    )


def _num_calls(num_steps: int) -> int:
    """Returns the calls that consecutive decode steps take on a whole model."""
    return -(-num_steps // MAX_STEPS_PER_CALL)
