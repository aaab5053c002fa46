from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from llmpq_jax.report import timeline
from tests.report import samples


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a batch and returns the figure that was saved."""
    figures: list[Figure] = []
    save = timeline.save_figure

    def keep(figure, path):
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(timeline, "save_figure", keep)

    def draw(batch):
        path = tmp_path / "timeline.png"
        timeline.write_timeline(path, samples.strategy(), batch)
        assert path.read_bytes().startswith(b"\x89PNG")
        return figures.pop()

    return draw


def _spans(axes):
    return sum(len(collection.get_paths()) for collection in axes.collections)


def test_a_long_run_is_drawn_whole_with_its_beginning_enlarged(drawn):
    batch = samples.batch(num_steps=15)
    zoom, whole = drawn(batch).axes
    assert _spans(whole) == len(batch.events)
    assert 0 < _spans(zoom) < len(batch.events)
    assert zoom.get_xlim()[1] < whole.get_xlim()[1]


def test_a_short_run_is_drawn_once(drawn):
    batch = samples.batch(num_steps=2)
    (whole,) = drawn(batch).axes
    assert _spans(whole) == len(batch.events)


def test_rows_are_stages_and_numbers_micro_batches(drawn):
    axes = drawn(samples.batch()).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "node0/cpu:0\nlayers 0–4",
        "node0/cpu:1\nlayers 5",
        "node0/cpu:2 + node0/cpu:3\nlayers 6–7",
    ]
    assert {text.get_text() for text in axes.texts} >= {"0", "1", "2", "3"}
    assert axes.yaxis_inverted()


def test_a_batch_of_one_token_has_no_decode(drawn):
    (whole,) = drawn(samples.batch(num_steps=0)).axes
    assert _spans(whole) == 12


def test_prediction_and_run_have_one_axis_of_time(monkeypatch, tmp_path):
    figures: list[Figure] = []
    monkeypatch.setattr(
        timeline, "save_figure", lambda figure, _: figures.append(figure)
    )
    batch = samples.batch()
    slow = replace(batch, decode_s=2 * batch.decode_s)
    path = tmp_path / "both.png"
    timeline.write_comparison(path, samples.strategy(), batch, slow)
    above, below = figures[0].axes
    assert above.get_xlim() == below.get_xlim()
    assert above.get_title(loc="left").startswith("Predicted of stages")
    assert below.get_title(loc="left").startswith("Measured")
    assert _spans(above) == _spans(below) > 0
