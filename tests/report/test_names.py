from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.report.names import (
    bits_text,
    continued_text,
    devices_text,
    layers_text,
    printable,
)
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


@given(st.text())
def test_nothing_printed_steers_the_terminal(text):
    assert all(char.isprintable() or char in "\n\t" for char in printable(text))


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_is_printed_as_it_is(text):
    assert printable(text) == text


def test_a_continuation_follows_its_prompt():
    assert (
        continued_text("def f():\n", "    return 1\n") == "  def f():\n      return 1"
    )


def test_an_escape_is_written_out():
    assert printable("\x1b[2J\r") == "\\x1b[2J\\r"
