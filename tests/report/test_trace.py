from __future__ import annotations

import json
from itertools import pairwise

import pytest

from llmpq_jax.report.trace import write_trace
from tests.report import samples


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "trace.json"
    write_trace(path, samples.strategy(), [samples.batch(), samples.batch()])
    return json.loads(path.read_text())["traceEvents"]


def test_every_stage_has_a_named_row(events):
    names = {
        event["tid"]: event["args"]["name"]
        for event in events
        if event["name"] == "thread_name"
    }
    assert names == {
        0: "stage 0: node0/cpu:0, layers 0–4",
        1: "stage 1: node0/cpu:1, layers 5",
        2: "stage 2: node0/cpu:2 + node0/cpu:3, layers 6–7",
    }


def test_every_event_of_the_run_is_a_span(events):
    batch = samples.batch()
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == 2 * len(batch.events)
    first = spans[0]
    assert first["name"] == "prefill micro-batch 0"
    assert first["cat"] == "prefill"
    assert first["dur"] == pytest.approx(4000)
    assert "decode micro-batch 1 step 15" in {span["name"] for span in spans}


def test_a_row_does_one_thing_at_a_time_and_batches_follow_each_other(events):
    for stage in range(3):
        spans = [e for e in events if e["ph"] == "X" and e["tid"] == stage]
        spans.sort(key=lambda span: span["ts"])
        for before, after in pairwise(spans):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-3
        assert [span["args"]["batch"] for span in spans] == sorted(
            span["args"]["batch"] for span in spans
        )


def test_a_prediction_is_a_process_of_its_own(tmp_path):
    path = tmp_path / "both.json"
    batch = samples.batch()
    write_trace(path, samples.strategy(), [batch], [batch])
    both = json.loads(path.read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in both if e["name"] == "process_name"}
    assert names == {
        1: "llmpq-jax models/tiny",
        2: "llmpq-jax models/tiny, as predicted",
    }
    for process in names:
        spans = [e for e in both if e["ph"] == "X" and e["pid"] == process]
        assert len(spans) == len(batch.events)
