from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.report.texts import continued_text, printable


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
