from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.report.names import bits_text, devices_text, layers_text
from tests.report import samples


@given(st.lists(st.sampled_from([4, 8, 16]), min_size=1))
def test_compact_bits_lose_nothing(bits):
    read = []
    for run in bits_text(bits).split():
        value, _, count = run.partition("×")
        read += [int(value)] * int(count or 1)
    assert read == bits


def test_one_layer_is_no_range():
    first, second, mesh = samples.strategy().stages
    assert layers_text(first) == "0–4"
    assert layers_text(second) == "5"
    assert devices_text(mesh) == "node0/cpu:2 + node0/cpu:3"
