"""The phases of stages add up to their batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.runtime.analysis.phase_times import phase_times
from tests.report import samples


def test_busy_and_idle_make_the_whole_batch():
    batch = samples.batch()
    found = phase_times(samples.strategy(), batch)
    assert [(each.stage, each.phase) for each in found] == [
        (stage, phase) for stage in range(3) for phase in ("prefill", "decode")
    ]
    for times in batch.stages:
        own = [row for row in found if row.stage == times.stage]
        assert sum(row.busy_s for row in own) == pytest.approx(times.busy_s)
        assert sum(row.idle_s for row in own) == pytest.approx(times.idle_s)
        prefill, decode = own
        assert prefill.busy_s + prefill.idle_s == pytest.approx(batch.prefill_s)
        assert decode.busy_s + decode.idle_s == pytest.approx(batch.decode_s)


def test_a_run_as_predicted_has_ratios_of_one():
    for row in phase_times(samples.strategy(), samples.batch()):
        assert row.ratio == pytest.approx(1.0)
        assert row.link_s == pytest.approx(0.0)
        assert row.queued_s >= 0


def test_links_are_the_time_between_two_stages():
    batch = samples.batch()
    later = tuple(
        replace(
            event,
            received_s=event.received_s + 0.25 * event.stage,
            started_s=event.started_s + 0.25 * event.stage,
            ended_s=event.ended_s + 0.25 * event.stage,
        )
        for event in batch.events
    )
    for row in phase_times(samples.strategy(), replace(batch, events=later)):
        assert row.link_s == pytest.approx(0.25 if row.stage else 0.0)


def test_without_predictions_there_is_no_ratio():
    strategy = samples.strategy()
    stages = tuple(replace(stage, predicted=None) for stage in strategy.stages)
    found = phase_times(replace(strategy, stages=stages), samples.batch())
    assert {row.ratio for row in found} == {None}
