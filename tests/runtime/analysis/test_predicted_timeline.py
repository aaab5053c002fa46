"""A replayed batch takes as long as the planner's formula says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.costmodel.pipeline_schedule import pipeline_s
from llmpq_jax.runtime.analysis.predicted_timeline import predicted_batch
from llmpq_jax.runtime.analysis.run_record import BatchRecord, StageTimes
from llmpq_jax.stage.compiled import Phase
from llmpq_jax.stage.message import StageEvent
from tests.report import samples

SECONDS = st.lists(st.floats(0.001, 1.0), min_size=3, max_size=3)


def run_of(num_prefill, num_decode, new_tokens):
    """A run in which no message took any time."""
    prefills: list[tuple[Phase, int, int]] = [
        ("prefill", number, 0) for number in range(num_prefill)
    ]
    steps: list[tuple[Phase, int, int]] = [
        ("decode", group, step)
        for step in range(1, new_tokens)
        for group in range(num_decode)
    ]
    events = tuple(
        StageEvent(
            stage=stage,
            phase=phase,
            micro_batch=number,
            step=step,
            received_s=0.0,
            started_s=0.0,
            ended_s=0.0,
        )
        for phase, number, step in prefills + steps
        for stage in range(3)
    )
    nothing: dict[str, Any] = {
        "prefill_s": 0.0,
        "decode_s": 0.0,
        "busy_s": 0.0,
        "idle_s": 0.0,
    }
    return BatchRecord(
        num_requests=1,
        num_new_tokens=1,
        prefill_s=0.0,
        decode_s=0.0,
        stages=tuple(
            StageTimes(
                stage=n, devices=("d",), waiting_s=0.0, memory_bytes=0, **nothing
            )
            for n in range(3)
        ),
        events=events,
    )


@given(SECONDS, SECONDS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 9))
def test_it_takes_as_long_as_the_formula_says(
    prefill_s, decode_s, num_prefill, num_decode, new_tokens
):
    strategy = samples.strategy()
    stages = []
    for stage, p, d in zip(strategy.stages, prefill_s, decode_s, strict=True):
        assert stage.predicted is not None
        predicted = replace(stage.predicted, prefill_s=p, decode_s=d)
        stages.append(replace(stage, predicted=predicted))
    strategy = replace(strategy, stages=tuple(stages))
    found = predicted_batch(strategy, run_of(num_prefill, num_decode, new_tokens))
    assert found is not None
    expected = pipeline_s(
        stages_s=(prefill_s, decode_s),
        hops_s=((), ()),
        num_micro_batches=(num_prefill, num_decode),
        new_tokens=new_tokens,
    )
    assert found.prefill_s == pytest.approx(expected.prefill_s)
    assert found.decode_s == pytest.approx(expected.decode_s)
    for times, p in zip(found.stages, prefill_s, strict=True):
        assert times.prefill_s == pytest.approx(p)


def test_the_replay_of_a_run_as_predicted_is_that_run():
    """Except that in the sample decode starts before all prompts are prefilled."""
    batch = samples.batch()
    found = predicted_batch(samples.strategy(), batch)
    assert found is not None
    assert found.prefill_s == pytest.approx(batch.prefill_s)
    assert len(found.events) == len(batch.events)
    for own, other in zip(found.stages, batch.stages, strict=True):
        assert own.busy_s == pytest.approx(other.busy_s)


def test_without_predictions_there_is_no_replay():
    strategy = samples.strategy()
    stages = tuple(replace(stage, predicted=None) for stage in strategy.stages)
    assert predicted_batch(replace(strategy, stages=stages), samples.batch()) is None
