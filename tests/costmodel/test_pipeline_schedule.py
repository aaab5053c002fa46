"""The schedule's formula against a simulation that moves micro-batches one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.pipeline_schedule import Host, pipeline_s


def simulate(resources_s, num_micro_batches, num_rounds):
    """Moves each micro-batch through all resources, round after round.

    A resource serves one micro-batch at a time, in the order of arrival. A micro-batch
    starts a round when it has finished the one before.
    """
    free_s = [0.0] * len(resources_s)
    ready_s = [0.0] * num_micro_batches
    for _ in range(num_rounds):
        for micro_batch in range(num_micro_batches):
            now_s = ready_s[micro_batch]
            for resource, duration_s in enumerate(resources_s):
                now_s = max(now_s, free_s[resource]) + duration_s
                free_s[resource] = now_s
            ready_s[micro_batch] = now_s
    return max(ready_s)


times = st.floats(0.0, 10.0)


@st.composite
def pipelines(draw):
    num_stages = draw(st.integers(1, 6))
    stages = st.lists(times, min_size=num_stages, max_size=num_stages)
    hops = st.lists(times, min_size=num_stages - 1, max_size=num_stages - 1)
    return {
        "stages_s": draw(st.tuples(stages, stages)),
        "hops_s": draw(st.tuples(hops, hops)),
        "num_micro_batches": draw(st.tuples(st.integers(1, 9), st.integers(1, 9))),
        "new_tokens": draw(st.integers(1, 30)),
    }


def interleaved(stages, hops):
    return [s for pair in zip(stages, [*hops, None], strict=True) for s in pair][:-1]


@given(pipelines())
def test_the_formula_is_what_a_simulation_takes(pipeline):
    seconds = pipeline_s(**pipeline)
    prefill, decode = map(interleaved, pipeline["stages_s"], pipeline["hops_s"])
    num_prefill, num_decode = pipeline["num_micro_batches"]
    rounds = pipeline["new_tokens"] - 1
    assert seconds.prefill_s == pytest.approx(
        simulate(prefill, num_prefill, 1), rel=1e-9
    )
    assert seconds.decode_s == pytest.approx(
        simulate(decode, num_decode, rounds), rel=1e-9
    )
    assert seconds.latency_s == seconds.prefill_s + seconds.decode_s


@given(pipelines(), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_shared_machine_does_a_fraction_of_its_work_serially(
    pipeline, in_prefill, in_decode
):
    num_stages = len(pipeline["stages_s"][0])
    host = Host(
        members=tuple(range(num_stages)),
        prefill_serial=in_prefill,
        decode_serial=in_decode,
    )
    alone, shared = pipeline_s(**pipeline), pipeline_s(**pipeline, hosts=[host])
    work_s = [
        num * sum(stages_s)
        for num, stages_s in zip(
            pipeline["num_micro_batches"], pipeline["stages_s"], strict=True
        )
    ]
    prefill_work, decode_work = work_s[0], (pipeline["new_tokens"] - 1) * work_s[1]
    for found, apart, work, serial in (
        (shared.prefill_s, alone.prefill_s, prefill_work, in_prefill),
        (shared.decode_s, alone.decode_s, decode_work, in_decode),
    ):
        assert found == pytest.approx(apart + serial * max(0.0, work - apart))


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0.0, 1.0), st.floats(0.1, 9.0))
def test_equal_stages_work_as_a_processor_that_serves_them_in_turns(
    num_stages, num_rounds, serial, stage_s
):
    """Each does its parallel work alone, then its serial work, in turns with others."""
    seconds = pipeline_s(
        stages_s=([0.0] * num_stages, [stage_s] * num_stages),
        hops_s=([0.0] * (num_stages - 1),) * 2,
        num_micro_batches=(1, num_stages),
        new_tokens=num_rounds + 1,
        hosts=[
            Host(
                members=tuple(range(num_stages)),
                prefill_serial=0.0,
                decode_serial=serial,
            )
        ],
    )
    # All of them are busy except while the pipeline fills and drains.
    busy = [
        sum(0 <= tick - stage < num_stages * num_rounds for stage in range(num_stages))
        for tick in range(num_stages * num_rounds + num_stages - 1)
    ]
    ticks_s = [stage_s * (1 - serial + serial * count) for count in busy]
    assert seconds.decode_s == pytest.approx(sum(ticks_s))


def test_a_machine_slows_its_own_stages_only():
    pipeline = {
        "stages_s": ([1.0, 1.0], [1.0, 1.0]),
        "hops_s": ([0.0], [0.0]),
        "num_micro_batches": (10, 2),
        "new_tokens": 2,
    }
    both = [Host(members=(0, 1), prefill_serial=1.0, decode_serial=1.0)]
    one = [Host(members=(1,), prefill_serial=1.0, decode_serial=1.0)]
    assert pipeline_s(**pipeline, hosts=both).prefill_s == 20.0
    assert pipeline_s(**pipeline, hosts=one).prefill_s == 11.0


@given(pipelines(), st.data())
def test_a_slower_stage_never_helps(pipeline, data):
    prefill_s, decode_s = pipeline["stages_s"]
    stage = data.draw(st.integers(0, len(decode_s) - 1))
    slower = np.array(decode_s)
    slower[stage] += data.draw(times)
    changed = pipeline | {"stages_s": (prefill_s, slower.tolist())}
    before, after = pipeline_s(**pipeline).decode_s, pipeline_s(**changed).decode_s
    assert after >= before * (1 - 1e-12)


@pytest.mark.parametrize("new_tokens", [1, 2, 5])
def test_a_stage_with_infinite_seconds_makes_the_batch_infinite(new_tokens):
    found = pipeline_s(
        stages_s=([1.0, math.inf], [1.0, math.inf]),
        hops_s=([0.0], [0.0]),
        num_micro_batches=(1, 1),
        new_tokens=new_tokens,
    )
    assert found.latency_s == math.inf
