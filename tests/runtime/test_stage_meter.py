"""Shares and times of stages, from events whose times are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmpq_jax.runtime import stage_meter
from llmpq_jax.runtime.stage_meter import StageMeter
from llmpq_jax.stage.compiled import Phase
from llmpq_jax.stage.message import StageEvent
from tests.support.tiny_models import make_strategy, write_tiny_model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [100.0]
    monkeypatch.setattr(stage_meter.time, "perf_counter", lambda: now_s[0])
    return now_s


@pytest.fixture
def meter(tmp_path: Path, clock: list[float]) -> StageMeter:
    del clock
    folder = write_tiny_model(tmp_path / "model")
    stages = [((0,), [16, 16]), ((1,), [16, 16])]
    return StageMeter(make_strategy(folder, stages))  # pyright: ignore[reportArgumentType]


def _event(
    stage: int, phase: Phase, start_s: float, end_s: float, num_steps: int = 1
) -> StageEvent:
    return StageEvent(
        stage=stage,
        phase=phase,
        micro_batch=0,
        step=0,
        num_steps=num_steps,
        received_s=start_s - 0.5,
        started_s=start_s,
        ended_s=end_s,
        rows=1,
        tokens=32.0,
    )


def test_work_is_counted_for_its_stage(meter: StageMeter, clock: list[float]) -> None:
    clock[0] = 104.0
    meter.add(
        [
            _event(0, "prefill", 100.0, 101.0),
            _event(0, "decode", 101.0, 103.0, num_steps=4),
            _event(1, "decode", 103.0, 103.5),
        ]
    )
    first, second = meter.readings()
    assert first.busy_share == pytest.approx(3 / 4)
    assert first.decode_s == pytest.approx(0.5)
    assert first.prefill_s == pytest.approx(1.0)
    assert first.prefill_tokens_per_s == pytest.approx(32 / 4)
    assert first.queued_s == pytest.approx(0.5)
    assert second.busy_share == pytest.approx(0.5 / 4)
    assert second.prefill_s is None
    assert second.predicted_decode_s is None


def test_what_is_long_past_counts_in_the_total_alone(
    meter: StageMeter, clock: list[float]
) -> None:
    clock[0] = 103.0
    meter.add([_event(0, "decode", 100.0, 103.0)])
    clock[0] = 112.0
    assert meter.readings()[0].busy_share == pytest.approx(1 / 10)
    clock[0] = 130.0
    meter.add([_event(0, "decode", 129.0, 130.0)])
    reading = meter.readings()[0]
    assert reading.busy_total_s == pytest.approx(4.0)
    assert reading.busy_share == pytest.approx(1 / 10)
    assert reading.decode_s == pytest.approx(1.0)


def test_tokens_per_second_are_those_of_the_last_seconds(
    meter: StageMeter, clock: list[float]
) -> None:
    assert meter.tokens_per_s() == 0
    for at_s in (101.0, 102.0, 104.0):
        clock[0] = at_s
        meter.add_tokens(8)
    assert meter.tokens_per_s() == pytest.approx(24 / 4)
    clock[0] = 113.0
    assert meter.tokens_per_s() == pytest.approx(8 / 10)
    clock[0] = 200.0
    assert meter.tokens_per_s() == 0
