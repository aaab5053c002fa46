from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from llmpq_jax.report.timeline import (
    comparison_figure,
    timeline_figure,
    write_timeline,
)
from tests.report import samples


def drawn(batch):
    return timeline_figure(samples.strategy(), batch)


def _spans(axes):
    return sum(len(collection.get_paths()) for collection in axes.collections)


def test_a_long_run_is_drawn_whole_with_its_start_enlarged():
    batch = samples.batch(num_steps=15)
    zoom, whole = drawn(batch).axes
    assert _spans(whole) == len(batch.events)
    assert 0 < _spans(zoom) < len(batch.events)
    assert zoom.get_xlim()[1] < whole.get_xlim()[1]


def test_a_short_run_is_drawn_once():
    batch = samples.batch(num_steps=2)
    (whole,) = drawn(batch).axes
    assert _spans(whole) == len(batch.events)


def test_rows_are_stages_and_numbers_micro_batches():
    axes = drawn(samples.batch()).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "node0/cpu:0\nlayers 0–4",
        "node0/cpu:1\nlayers 5",
        "node0/cpu:2 + node0/cpu:3\nlayers 6–7",
    ]
    assert {text.get_text() for text in axes.texts} >= {"0", "1", "2", "3"}
    assert axes.yaxis_inverted()


def test_a_batch_of_one_token_has_no_decode():
    (whole,) = drawn(samples.batch(num_steps=0)).axes
    assert _spans(whole) == 12


def test_prediction_and_run_have_one_axis_of_time():
    batch = samples.batch()
    slow = replace(batch, decode_s=2 * batch.decode_s)
    above, below = comparison_figure(samples.strategy(), batch, slow).axes
    assert above.get_xlim() == below.get_xlim()
    assert above.get_title(loc="left").startswith("Predicted for stages")
    assert below.get_title(loc="left").startswith("Measured")
    assert _spans(above) == _spans(below) > 0


def _scaled(batch, factor):
    events = tuple(
        replace(
            event,
            received_s=factor * event.received_s,
            started_s=factor * event.started_s,
            ended_s=factor * event.ended_s,
        )
        for event in batch.events
    )
    return replace(
        batch,
        events=events,
        prefill_s=factor * batch.prefill_s,
        decode_s=factor * batch.decode_s,
    )


def test_each_panel_says_how_many_rounds_it_shows():
    batch = samples.batch(num_steps=60)
    slow = _scaled(batch, 2.0)
    above, below = comparison_figure(samples.strategy(), slow, batch).axes
    end_s = above.get_xlim()[1] / 1e3
    rounds = [
        step
        for step in range(1, 61)
        if all(e.ended_s <= end_s for e in batch.events if e.step == step)
    ]
    assert above.get_title(loc="left").endswith("the first 3 rounds of decode")
    assert len(rounds) > 3
    shown = f"the first {len(rounds)} rounds of decode"
    assert below.get_title(loc="left").endswith(shown)


def test_prompts_that_waited_are_not_of_the_start():
    batch = samples.batch(num_steps=60)
    (prefill, *_) = batch.events
    late_s = batch.latency_s - prefill.ended_s
    late = replace(
        prefill, micro_batch=9, started_s=late_s, ended_s=late_s + prefill.ended_s
    )
    waited = replace(batch, events=(*batch.events, late))
    assert drawn(waited).axes[0].get_xlim() == drawn(batch).axes[0].get_xlim()


def test_pictures_are_written(tmp_path):
    batch = samples.batch()
    write_timeline(tmp_path / "run.png", samples.strategy(), batch)
    write_timeline(tmp_path / "both.svg", samples.strategy(), batch, batch)
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "both.svg").getroot().tag.endswith("svg")
