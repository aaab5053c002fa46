"""The expected schedule of a workload, against a simulation of it event by event."""

from __future__ import annotations

import heapq
from collections import deque
from itertools import accumulate, chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.continuous_batching import expected_schedule
from llmpq_jax.costmodel.pipeline_schedule import pipeline_s
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL
from llmpq_jax.schema.workload import MicroBatch, Workload, workload_of_lengths


def simulate(sequences, num_slots, decode_rows, *, prefill, decode_s, refill_s):
    """Serves sequences as the scheduler does, on stages that take one micro-batch each.

    Args:
        sequences: Pairs of decode steps and prompt tokens, in the order of service.
        num_slots: Number of slots of all decode groups.
        decode_rows: Number of slots of a decode group.
        prefill: Rows of a prefill, and its seconds on each stage.
        decode_s: Seconds of a decode step on each stage.
        refill_s: Seconds of a prompt prefilled alone on each stage, by its tokens.

    Returns:
        Seconds until the first prefills are finished, and until the end.
    """
    num_rows, prefill_s = prefill
    waiting = deque(sequences)
    first = [waiting.popleft() for _ in range(min(num_slots, len(waiting)))]
    now = [0.0] * len(prefill_s)
    for _ in range(-(-len(first) // num_rows)):
        now = through(now, 0.0, prefill_s)
    begin = now[-1]
    groups = [
        [steps for steps, _ in first[start : start + decode_rows]]
        for start in range(0, len(first), decode_rows)
    ]
    free, number = [begin] * len(decode_s), 0
    # Groups ready to enter the first stage: when, in which order, and which group.
    ready = [(begin, number := number + 1, group) for group in range(len(groups))]
    end = begin
    while ready:
        time, _, group = heapq.heappop(ready)
        left = groups[group]
        refilled = time
        for slot, steps in enumerate(left):
            if steps == 0 and waiting:
                left[slot], tokens = waiting.popleft()
                free = through(free, time, refill_s[tokens])
                refilled = free[-1]
        if refilled > time:
            end = max(end, refilled)
            heapq.heappush(ready, (refilled, number := number + 1, group))
        elif any(left):
            groups[group] = [max(steps - 1, 0) for steps in left]
            free = through(free, time, decode_s)
            end = max(end, free[-1])
            heapq.heappush(ready, (free[-1], number := number + 1, group))
    return begin, end


def through(free, time, seconds):
    """Moves one micro-batch through all stages; returns when each is free again."""
    after = []
    for stage_free, stage_s in zip(free, seconds, strict=True):
        time = max(time, stage_free) + stage_s
        after.append(time)
    return after


times = st.floats(0.01, 10.0)


@st.composite
def works(draw, *, max_waiting=0):
    small = draw(st.integers(1, 4))
    large = small * draw(st.integers(1, 3))
    prefill, decode = draw(st.sampled_from([(small, large), (large, small)]))
    micro_batch = MicroBatch(prefill=prefill, decode=decode)
    batch = draw(st.integers(1, 16))
    num_rows = batch + draw(st.integers(0, max_waiting))
    lengths = draw(
        st.lists(
            st.tuples(st.integers(1, 200), st.integers(1, 30)),
            min_size=num_rows,
            max_size=num_rows,
        )
    )
    num_stages = draw(st.integers(1, 4))
    stage_times = st.lists(times, min_size=num_stages, max_size=num_stages)
    workload = workload_of_lengths(lengths, batch=batch)
    return micro_batch, workload, draw(stage_times), draw(stage_times)


def simulated(micro_batch, workload, prefill_s, decode_s):
    sequences = list(
        chain.from_iterable(
            [(workload.expected(new) - 1, prompt)] * count
            for prompt, new, count in workload.lengths
        )
    )
    step = max(micro_batch.prefill, micro_batch.decode)
    return simulate(
        sequences,
        -(-workload.batch // step) * step,
        micro_batch.decode,
        prefill=(micro_batch.prefill, prefill_s),
        decode_s=decode_s,
        refill_s=refill_seconds(workload, prefill_s),
    )


def refill_seconds(workload, prefill_s):
    """Seconds of a prompt alone: a share of those of a micro-batch, by its length."""
    return {
        tokens: [seconds * tokens / 2000 for seconds in prefill_s]
        for tokens in workload.prompt_buckets
    }


def planned(micro_batch, workload, prefill_s, decode_s):
    schedule = expected_schedule(workload, micro_batch)
    refill_s = refill_seconds(workload, prefill_s)

    def with_refills(phase, seconds):
        shares = schedule.refills_in(phase)
        return [
            own + sum(share * refill_s[tokens][stage] for tokens, share in shares)
            for stage, own in enumerate(seconds)
        ]

    hops = [0.0] * (len(decode_s) - 1)
    return schedule, pipeline_s(
        stages_s=(
            with_refills("prefill", prefill_s),
            with_refills("decode", decode_s),
        ),
        hops_s=(hops, hops),
        num_micro_batches=(schedule.num_prefill, schedule.num_decode),
        new_tokens=schedule.new_tokens,
    )


def busy_groups(micro_batch, workload):
    """Numbers of groups that are busy in each round, if no slot is refilled."""
    steps = [
        workload.expected(new) - 1
        for _, new, count in workload.lengths
        for _ in range(count)
    ]
    last_steps = [
        max(steps[start : start + micro_batch.decode])
        for start in range(0, len(steps), micro_batch.decode)
    ]
    return [sum(last > turn for last in last_steps) for turn in range(max(last_steps))]


@given(works())
def test_rounds_of_groups_that_end_at_different_steps_take_what_a_simulation_takes(
    work,
):
    micro_batch, workload, _, decode_s = work
    begin, end = simulated(*work)
    busy = busy_groups(micro_batch, workload)
    once, slowest = sum(decode_s), max(decode_s)
    rounds = [max(count * slowest, once) for count in busy[:-1]]
    exact = once + (busy[-1] - 1) * slowest + sum(rounds) if busy else 0.0
    assert end - begin == pytest.approx(exact, rel=1e-9)


@given(works())
def test_the_plan_is_lower_by_at_most_what_a_mean_of_maxima_exceeds(work):
    """Equal if every round, or none, keeps the slowest stage busy."""
    micro_batch, workload, _, decode_s = work
    begin, end = simulated(*work)
    schedule, seconds = planned(*work)
    assert seconds.prefill_s == pytest.approx(begin, rel=1e-9)
    busy = busy_groups(micro_batch, workload)
    if not busy:
        assert (schedule.num_rounds, seconds.decode_s) == (0, 0.0)
        return
    assert (schedule.num_rounds, sum(busy)) == (
        len(busy),
        pytest.approx(schedule.num_decode * len(busy)),
    )
    once, slowest = sum(decode_s), max(decode_s)
    excess = sum(max(count * slowest, once) for count in busy) - len(busy) * max(
        schedule.num_decode * slowest, once
    )
    # The last round drains instead of coming round: one slowest stage for each group.
    drained = (busy[0] - busy[-1]) * slowest
    slack = 1e-9 * (end - begin)
    assert -drained - slack <= (end - begin) - seconds.decode_s <= excess + slack


@given(works(max_waiting=40))
def test_refills_are_spread_over_the_steps_and_each_counts_once(work):
    micro_batch, workload, *_ = work
    schedule = expected_schedule(workload, micro_batch)
    steps = schedule.num_rounds * schedule.num_decode or schedule.num_prefill
    step = max(micro_batch.prefill, micro_batch.decode)
    num_slots = -(-workload.batch // step) * step
    refilled = sum(share * steps for _, share in schedule.refills)
    assert refilled == pytest.approx(max(0, workload.num_prompts - num_slots), rel=1e-9)


@given(works(max_waiting=40))
def test_with_refills_the_plan_stays_near_the_simulation(work):
    """The claim of the docs: between 0.6 and 1.6 times the simulation's seconds."""
    _, end = simulated(*work)
    _, seconds = planned(*work)
    assert 0.6 <= seconds.latency_s / end <= 1.6


@given(works(), st.floats(0.05, 1.0))
def test_a_fraction_of_the_output_is_a_batch_with_fewer_new_tokens(work, fraction):
    micro_batch, *_ = work
    whole = Workload(batch=8, prompt_length=50, new_tokens=40)
    shorter = Workload(
        batch=8, prompt_length=50, new_tokens=max(1, round(40 * fraction))
    )
    part = Workload(
        batch=8, prompt_length=50, new_tokens=40, output_length_fraction=fraction
    )
    assert expected_schedule(part, micro_batch) == expected_schedule(
        shorter, micro_batch
    )
    assert part.context_length == whole.context_length
    assert part.expected_new_tokens == shorter.expected_new_tokens


@given(works(max_waiting=40))
def test_prompts_of_one_length_are_a_fixed_batch(work):
    micro_batch, workload, *_ = work
    batch = workload.batch
    equal_prompts = workload_of_lengths([(48, 16)] * batch)
    fixed = Workload(batch=batch, prompt_length=48, new_tokens=16)
    assert expected_schedule(equal_prompts, micro_batch) == expected_schedule(
        fixed, micro_batch
    )


def test_longest_sequences_come_first_and_slots_are_refilled_when_free():
    lengths = [(10, 3), (100, 5), (20, 2), (10, 9)]
    workload = workload_of_lengths(lengths, batch=2)
    assert workload.lengths == ((16, 9, 1), (128, 5, 1), (16, 3, 1), (32, 2, 1))
    assert (workload.longest_context, workload.context_length) == (105, 105)
    schedule = expected_schedule(workload, MicroBatch(prefill=2, decode=1))
    # One slot takes 8 steps, the other 4 + 2 + 1.
    assert (schedule.num_rounds, schedule.num_decode) == (8, 15 / 8)
    assert schedule.padded_prompt_length == 128
    assert schedule.refills == ((16, 1 / 15), (32, 1 / 15))
    finished = list(accumulate([4, 2, 1]))
    assert all(one < other for one, other in pairwise(finished))


def calls_of_the_scheduler(sequences, num_slots, decode_rows):
    """Counts calls of a whole model, group after group, as the scheduler makes them."""
    waiting = deque(sequences)
    first = [waiting.popleft() for _ in range(min(num_slots, len(waiting)))]
    groups = [
        first[start : start + decode_rows]
        for start in range(0, len(first), decode_rows)
    ]
    assert len(groups) == 1 or not waiting, "else it depends on which group is faster"
    num_calls = num_steps = 0
    for group in groups:
        left = list(group)
        while True:
            for slot in range(len(left)):
                while left[slot] == 0 and waiting:
                    left[slot] = waiting.popleft()
            if not any(left):
                break
            active = [steps for steps in left if steps]
            taken = min(MAX_STEPS_PER_CALL, min(active) if waiting else max(active))
            num_calls += 1
            num_steps += taken
            left = [max(steps - taken, 0) for steps in left]
    return num_calls, num_steps


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(1, 8),
    st.booleans(),
)
def test_calls_of_a_whole_model_are_those_of_the_scheduler(
    new_tokens, decode, prefill, is_one_group
):
    workload = workload_of_lengths(
        [(10, new) for new in new_tokens],
        batch=decode if is_one_group else len(new_tokens),
    )
    micro_batch = MicroBatch(
        prefill=1 if is_one_group else decode * prefill, decode=decode
    )
    schedule = expected_schedule(workload, micro_batch)
    num_calls, num_steps = calls_of_the_scheduler(
        sorted((new - 1 for new in new_tokens), reverse=True),
        decode if is_one_group else len(new_tokens),
        decode,
    )
    assert schedule.num_rounds * schedule.num_decode == pytest.approx(num_steps or 0)
    share = num_calls / num_steps if num_steps else 1.0
    assert schedule.dispatches_per_step == pytest.approx(share)


def test_a_batch_of_equal_sequences_takes_one_call_per_eight_steps():
    micro_batch = MicroBatch(prefill=2, decode=4)

    def dispatches_per_step(new_tokens):
        workload = Workload(batch=8, prompt_length=50, new_tokens=new_tokens)
        return expected_schedule(workload, micro_batch).dispatches_per_step

    assert dispatches_per_step(65) == 1 / 8
    assert dispatches_per_step(66) == 9 / 65
    assert dispatches_per_step(2) == dispatches_per_step(1) == 1.0
