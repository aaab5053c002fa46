"""Micro-batches, decode rounds and refills that the scheduler makes of a workload.

The scheduler (`runtime/scheduler.py`) serves sequences with the most new tokens first, and
decodes each group as a whole until its longest sequence has finished. When a sequence
finishes while prompts wait, the next prompt takes its slot (a refill): it is prefilled
alone, padded to its own bucket, before its group continues to decode. docs/formulation.md,
"Rows of many lengths", has the seconds of rounds with ever fewer busy groups, and how far
the formula of `pipeline_schedule` with their mean is from it. Refills are spread evenly
over the decode steps, which keeps the total work of every stage and makes a group wait for
its refills.

A stage that holds the whole model takes several decode steps per call: as many as the
group's longest sequence still needs or, while prompts wait, until its next slot is free.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
    sequences = [
        (prompt, workload.expected(new_tokens) - 1)
        for prompt, new_tokens, count in workload.lengths
        for _ in range(count)
    ]
    num_slots = cache_rows(workload, micro_batch)
    first, waiting = sequences[:num_slots], sequences[num_slots:]
    num_prefill = -(-len(first) // micro_batch.prefill)
    num_steps, num_rounds, num_calls = _count_decode(
        [steps for _, steps in first],
        [steps for _, steps in waiting],
        group_size=micro_batch.decode,
    )
    refills = Counter(prompt for prompt, _ in waiting)
    return ExpectedSchedule(
        padded_prompt_length=max(prompt for prompt, _ in first),
        num_prefill=num_prefill,
        num_rounds=num_rounds,
        num_decode=num_steps / num_rounds if num_rounds else 1,
        refills=tuple(
            (tokens, count / (num_steps or num_prefill))
            for tokens, count in sorted(refills.items())
        ),
        dispatches_per_step=num_calls / num_steps if num_steps else 1.0,
    )


def _count_decode(
    first: Sequence[int], waiting: Sequence[int], *, group_size: int
) -> tuple[int, int, int]:
    """Simulates decode groups whose freed slots are refilled in the order of service.

    `first` and `waiting` are decode steps of sequences. Returns decode steps, summed over
    the groups; those of the group that decodes longest; and calls of a stage that holds
    the whole model.
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
    return sum(last_step), max(last_step), num_calls


def _num_calls(num_steps: int) -> int:
    """Returns the calls that consecutive decode steps take on a whole model."""
    return -(-num_steps // MAX_STEPS_PER_CALL)
