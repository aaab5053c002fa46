"""What the driver makes of a workload: how many micro-batches, steps and refills.

The driver (`runtime/scheduler.py`) serves those that may become longest first. It fills its
decode groups, pads these prompts to the longest of theirs, and decodes a group, whole and
with all slots of its cache, until its longest row has ended. A place that falls free while
prompts wait takes the next one, which is prefilled alone, padded to its own bucket, before
its group decodes on.

So a round of decode has as many steps as groups that are still busy. With k_r of them in
round r of R, and maximum D over stages and hops, the rounds take

    ΣD + (k_R − 1)·max D + Σ_{r<R} max(k_r·max D, ΣD)

(the simulation in the tests agrees). The planner puts the mean of k_r for each of them,
m = Σ k_r / R, into the formula of `schedule`: equal where every round, or none, keeps the
slowest stage busy, and otherwise lower by what a mean of maxima exceeds the maximum of
means. A refill is counted in the decode steps, a share of its seconds in each: so the
work of every stage is whole, and a group waits for its refills.

A stage that is the whole model takes several steps in a call: as many as the group's longest
row still wants, or while prompts wait, until the next of its places falls free.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from itertools import chain, repeat

from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL, bucket_length
from llmpq_jax.schema.measurements import Phase
from llmpq_jax.schema.workload import MicroBatch, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpectedSchedule:
    """How a workload is expected to be served.

    Attributes:
        padded_prompt_length: What the first prompts are padded to, a bucket.
        num_prefill: Micro-batches in which they are prefilled.
        num_rounds: Decode steps of the group that takes longest.
        num_decode: Groups busy in a round of decode, mean over the rounds; at least 1.
        refills: Prompts prefilled alone, by the bucket they are padded to, for each
            decode step of any group; for each of the first prefills where there is no
            decode step at all.
        dispatches_per_step: For each decode step of any group, calls of a stage that is the
            whole model; at most 1.
    """

    padded_prompt_length: int
    num_prefill: int
    num_rounds: int
    num_decode: float
    refills: tuple[tuple[int, float], ...] = ()
    dispatches_per_step: float = 1.0

    @property
    def new_tokens(self) -> int:
        """As many as a fixed batch of so many rounds has."""
        return self.num_rounds + 1

    def refills_in(self, phase: Phase) -> tuple[tuple[int, float], ...]:
        """Returns the refills that are counted with a phase's micro-batches."""
        return self.refills if (phase == "decode") == (self.num_rounds > 0) else ()


def expected_schedule(workload: Workload, micro_batch: MicroBatch) -> ExpectedSchedule:
    """Follows the driver through a workload, row by row."""
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
    step = max(micro_batch.prefill, micro_batch.decode)
    num_slots_free = -(-workload.batch // step) * step
    rows = list(
        chain.from_iterable(
            repeat((prompt, workload.expected(new_tokens) - 1), count)
            for prompt, new_tokens, count in workload.lengths
        )
    )
    first, waiting = rows[:num_slots_free], rows[num_slots_free:]
    last_step = [0] * -(-len(first) // micro_batch.decode)
    # Where a group's last call ended because a prompt waited for one of its places.
    stopped, num_calls = [0] * len(last_step), 0
    # When each place falls free: by step, then in the order in which groups come round.
    free = [
        (steps, place // micro_batch.decode) for place, (_, steps) in enumerate(first)
    ]
    for steps, group in free:
        last_step[group] = max(last_step[group], steps)
    heapq.heapify(free)
    for _, steps in waiting:
        now, group = heapq.heappop(free)
        num_calls += _num_calls(now - stopped[group])
        stopped[group] = now
        last_step[group] = max(last_step[group], now + steps)
        heapq.heappush(free, (now + steps, group))
    num_prefill = -(-len(first) // micro_batch.prefill)
    num_steps, num_rounds = sum(last_step), max(last_step)
    num_calls += sum(
        _num_calls(last - stop) for last, stop in zip(last_step, stopped, strict=True)
    )
    counts = Counter(prompt for prompt, _ in waiting)
    return ExpectedSchedule(
        padded_prompt_length=max(prompt for prompt, _ in first),
        num_prefill=num_prefill,
        num_rounds=num_rounds,
        num_decode=num_steps / num_rounds if num_rounds else 1,
        refills=tuple(
            (tokens, count / (num_steps or num_prefill))
            for tokens, count in sorted(counts.items())
        ),
        dispatches_per_step=num_calls / num_steps if num_steps else 1.0,
    )


def _num_calls(num_steps: int) -> int:
    """Returns how many calls so many steps on end take on a whole model."""
    return -(-num_steps // MAX_STEPS_PER_CALL)
