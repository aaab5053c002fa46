from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.colors import to_hex

from llmpq_jax.report import strip
from llmpq_jax.report._picture_style import BITS_COLOURS
from tests.report import samples


def test_a_cell_has_the_colour_of_its_bits(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(strip, "save_figure", lambda figure, _: figures.append(figure))
    plan = samples.strategy()
    strip.write_strip(tmp_path / "strip.png", plan)
    cells = sorted(figures[0].axes[0].patches, key=lambda cell: cell.get_x())
    colours = [to_hex(cell.get_facecolor()) for cell in cells]
    assert colours == [BITS_COLOURS[bits] for bits in plan.bits]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_plan_gives_the_same_file(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        strip.write_strip(path, samples.strategy())
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    if suffix == ".svg":
        assert ElementTree.fromstring(first).tag.endswith("svg")
    else:
        assert first.startswith(b"\x89PNG")
