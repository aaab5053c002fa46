"""What the driver makes of a workload, against a simulation of it event by event."""

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


def simulate(rows, node_devices, decode_rows, *, prefill, decode_s, refill_s):
    """Serves rows as the driver does, on stages that take one micro-batch at a time.

    Args:
        rows: Steps and tokens of each, in the order of service.
        node_devices: In all groups.
        decode_rows: Of a group.
        prefill: Rows of a prefill and its seconds on each stage.
        decode_s: Of a step, on each stage.
        refill_s: By tokens, of a prompt prefilled alone.

    Returns:
        Seconds until all first prompts are through, and until the end.
    """
    num_rows, prefill_s = prefill
    waiting = deque(rows)
    first = [waiting.popleft() for _ in range(min(node_devices, len(waiting)))]
    now = [0.0] * len(prefill_s)
    for _ in range(-(-len(first) // num_rows)):
        now = through(now, 0.0, prefill_s)
    begin = now[-1]
    groups = [
        [steps for steps, _ in first[start : start + decode_rows]]
        for start in range(0, len(first), decode_rows)
    ]
    free, number = [begin] * len(decode_s), 0
    # What is ready to enter the first stage: when, in which order, of which group.
    ready = [(begin, number := number + 1, group) for group in range(len(groups))]
    end = begin
    while ready:
        time, _, group = heapq.heappop(ready)
        left = groups[group]
        refilled = time
        for node_device, steps in enumerate(left):
            if steps == 0 and waiting:
                left[node_device], tokens = waiting.popleft()
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
    rows = list(
        chain.from_iterable(
            [(workload.expected(new) - 1, prompt)] * count
            for prompt, new, count in workload.lengths
        )
    )
    step = max(micro_batch.prefill, micro_batch.decode)
    return simulate(
        rows,
        -(-workload.batch // step) * step,
        micro_batch.decode,
        prefill=(micro_batch.prefill, prefill_s),
        decode_s=decode_s,
        refill_s=refills_in(workload, prefill_s),
    )


def refills_in(workload, prefill_s):
    """A prompt alone, as a share of a whole micro-batch by its length."""
    return {
        tokens: [seconds * tokens / 2000 for seconds in prefill_s]
        for tokens in workload.prompt_buckets
    }


def planned(micro_batch, workload, prefill_s, decode_s):
    service = expected_schedule(workload, micro_batch)
    refill_s = refills_in(workload, prefill_s)

    def with_refills(phase, seconds):
        shares = service.refills_in(phase)
        return [
            own + sum(share * refill_s[tokens][stage] for tokens, share in shares)
            for stage, own in enumerate(seconds)
        ]

    hops = [0.0] * (len(decode_s) - 1)
    return service, pipeline_s(
        stages_prefill_s=with_refills("prefill", prefill_s),
        stages_decode_s=with_refills("decode", decode_s),
        hops_prefill_s=hops,
        hops_decode_s=hops,
        num_prefill=service.num_prefill,
        num_decode=service.num_decode,
        new_tokens=service.new_tokens,
    )


def busy_groups(micro_batch, workload):
    """How many groups are busy in each round, rows ending as they may."""
    steps = [
        workload.expected(new) - 1
        for _, new, count in workload.lengths
        for _ in range(count)
    ]
    ends = [
        max(steps[start : start + micro_batch.decode])
        for start in range(0, len(steps), micro_batch.decode)
    ]
    return [sum(end > turn for end in ends) for turn in range(max(ends))]


@given(works())
def test_rounds_of_groups_that_end_apart_take_what_a_simulation_takes(work):
    micro_batch, workload, _, decode_s = work
    begin, end = simulated(*work)
    busy = busy_groups(micro_batch, workload)
    once, slowest = sum(decode_s), max(decode_s)
    rounds = [max(count * slowest, once) for count in busy[:-1]]
    exact = once + (busy[-1] - 1) * slowest + sum(rounds) if busy else 0.0
    assert end - begin == pytest.approx(exact, rel=1e-9)


@given(works())
def test_the_plan_is_below_it_by_no_more_than_a_mean_of_maxima_exceeds(work):
    """Equal where every round, or none, keeps the slowest stage busy."""
    micro_batch, workload, _, decode_s = work
    begin, end = simulated(*work)
    service, seconds = planned(*work)
    assert seconds.prefill_s == pytest.approx(begin, rel=1e-9)
    busy = busy_groups(micro_batch, workload)
    if not busy:
        assert (service.num_rounds, seconds.decode_s) == (0, 0.0)
        return
    assert (service.num_rounds, sum(busy)) == (
        len(busy),
        pytest.approx(service.num_decode * len(busy)),
    )
    once, slowest = sum(decode_s), max(decode_s)
    excess = sum(max(count * slowest, once) for count in busy) - len(busy) * max(
        service.num_decode * slowest, once
    )
    # The last round drains instead of coming round: one slowest stage for each group.
    drained = (busy[0] - busy[-1]) * slowest
    slack = 1e-9 * (end - begin)
    assert -drained - slack <= (end - begin) - seconds.decode_s <= excess + slack


@given(works(max_waiting=40))
def test_refills_are_spread_over_the_steps_and_none_is_lost_or_doubled(work):
    micro_batch, workload, *_ = work
    service = expected_schedule(workload, micro_batch)
    steps = service.num_rounds * service.num_decode or service.num_prefill
    step = max(micro_batch.prefill, micro_batch.decode)
    node_devices = -(-workload.batch // step) * step
    refilled = sum(share * steps for _, share in service.refills)
    assert refilled == pytest.approx(
        max(0, workload.num_prompts - node_devices), rel=1e-9
    )


@given(works(max_waiting=40))
def test_with_refills_the_plan_stays_near_the_simulation(work):
    """The claim of the docs: between 0.6 and 1.6 times the simulation's seconds."""
    _, end = simulated(*work)
    _, seconds = planned(*work)
    assert 0.6 <= seconds.latency_s / end <= 1.6


@given(works(), st.floats(0.05, 1.0))
def test_a_share_of_the_output_is_a_batch_of_so_many_new_tokens(work, fraction):
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
    interchangeable_groups = workload_of_lengths([(48, 16)] * batch)
    fixed = Workload(batch=batch, prompt_length=48, new_tokens=16)
    assert expected_schedule(interchangeable_groups, micro_batch) == expected_schedule(
        fixed, micro_batch
    )


def test_longest_come_first_and_places_are_filled_as_they_fall_free():
    lengths = [(10, 3), (100, 5), (20, 2), (10, 9)]
    workload = workload_of_lengths(lengths, batch=2)
    assert workload.lengths == ((16, 9, 1), (128, 5, 1), (16, 3, 1), (32, 2, 1))
    assert (workload.longest_context, workload.context_length) == (105, 105)
    service = expected_schedule(workload, MicroBatch(prefill=2, decode=1))
    # One place takes 8 steps, the other 4 + 2 + 1.
    assert (service.num_rounds, service.num_decode) == (8, 15 / 8)
    assert service.padded_prompt_length == 128
    assert service.refills == ((16, 1 / 15), (32, 1 / 15))
    ends = list(accumulate([4, 2, 1]))
    assert all(one < other for one, other in pairwise(ends))


def calls_of_the_driver(rows, node_devices, decode_rows):
    """Counts calls of a whole model, group after group, as the driver sends them."""
    waiting = deque(rows)
    first = [waiting.popleft() for _ in range(min(node_devices, len(waiting)))]
    groups = [
        first[start : start + decode_rows]
        for start in range(0, len(first), decode_rows)
    ]
    assert len(groups) == 1 or not waiting, "else it hangs on who is quicker"
    num_calls = num_steps = 0
    for group in groups:
        left = list(group)
        while True:
            for node_device in range(len(left)):
                while left[node_device] == 0 and waiting:
                    left[node_device] = waiting.popleft()
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
def test_calls_of_a_whole_model_are_those_of_the_driver(
    new_tokens, decode, prefill, is_one_group
):
    workload = workload_of_lengths(
        [(10, new) for new in new_tokens],
        batch=decode if is_one_group else len(new_tokens),
    )
    micro_batch = MicroBatch(
        prefill=1 if is_one_group else decode * prefill, decode=decode
    )
    service = expected_schedule(workload, micro_batch)
    num_calls, num_steps = calls_of_the_driver(
        sorted((new - 1 for new in new_tokens), reverse=True),
        decode if is_one_group else len(new_tokens),
        decode,
    )
    assert service.num_rounds * service.num_decode == pytest.approx(num_steps or 0)
    share = num_calls / num_steps if num_steps else 1.0
    assert service.dispatches_per_step == pytest.approx(share)


def test_a_batch_of_rows_alike_calls_once_for_eight_steps():
    micro_batch = MicroBatch(prefill=2, decode=4)

    def dispatches_per_step(new_tokens):
        workload = Workload(batch=8, prompt_length=50, new_tokens=new_tokens)
        return expected_schedule(workload, micro_batch).dispatches_per_step

    assert dispatches_per_step(65) == 1 / 8
    assert dispatches_per_step(66) == 9 / 65
    assert dispatches_per_step(2) == dispatches_per_step(1) == 1.0
