"""Uncontended seconds, compared with a count of whole seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.runtime.analysis.uncontended import uncontended_seconds
from llmpq_jax.stage.message import StageEvent
from tests.report import samples

# The third stage of the sample is on a mesh of two devices.
WIDTHS = (1, 1, 2)


@st.composite
def runs(draw: st.DrawFn) -> list[StageEvent]:
    """Events of each stage one after the other, in whole seconds."""
    events = []
    for stage in range(3):
        now = float(draw(st.integers(0, 4)))
        for number, (took, pause) in enumerate(
            draw(
                st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=5),
            )
        ):
            events.append(
                StageEvent(
                    stage=stage,
                    phase=draw(st.sampled_from(("prefill", "decode"))),
                    micro_batch=number,
                    step=0,
                    received_s=now,
                    started_s=now,
                    ended_s=now + took,
                )
            )
            now += took + pause
    return events


def referee(events, serial):
    own = [0.0] * len(events)
    for second in range(100):
        busy = [
            number
            for number, event in enumerate(events)
            if event.started_s <= second < event.ended_s
        ]
        num_busy = sum(WIDTHS[events[number].stage] for number in busy)
        for number in busy:
            fraction = serial[events[number].phase]
            takes = (1 - fraction) + fraction * num_busy
            own[number] += 1.0 if len(busy) == 1 else 1.0 / takes
    return own


FRACTIONS = st.floats(0.0, 1.0)


@given(runs(), FRACTIONS, FRACTIONS)
def test_busy_devices_share_a_machine_by_its_serial_fraction(events, prefill, decode):
    serial = {"prefill": prefill, "decode": decode}
    found = uncontended_seconds(
        samples.strategy(), events, lambda _, phase: serial[phase]
    )
    assert found == pytest.approx(referee(events, serial))
    for own_s, event in zip(found, events, strict=True):
        assert 0 <= own_s <= event.ended_s - event.started_s + 1e-9


@given(runs())
def test_without_a_shared_processor_seconds_stay_as_they_are(events):
    found = uncontended_seconds(samples.strategy(), events, lambda _, __: None)
    assert found == pytest.approx([e.ended_s - e.started_s for e in events])


@given(runs())
def test_different_machines_share_nothing(events):
    plan = samples.strategy()
    apart = tuple(
        replace(stage, device=f"node{number}/cpu:0", mesh=None)
        for number, stage in enumerate(plan.stages)
    )
    found = uncontended_seconds(replace(plan, stages=apart), events, lambda _, __: 1.0)
    assert found == pytest.approx([e.ended_s - e.started_s for e in events])
