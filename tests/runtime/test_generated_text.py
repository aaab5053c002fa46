"""A text ends before the first stop text, which may hold special tokens."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from llmpq_jax.runtime.generated_text import GeneratedText

SPECIAL = "<b>"
PARTS = st.lists(st.sampled_from(["a", "b", "ab", "", SPECIAL]), max_size=10)
STOPS = st.lists(st.text("ab<>", min_size=1, max_size=4), max_size=3)


def letters(text: str) -> list[str]:
    """Splits a text into letters; special tokens stay whole."""
    found: list[str] = []
    while text:
        letter = SPECIAL if text.startswith(SPECIAL) else text[0]
        found.append(letter)
        text = text[len(letter) :]
    return found


def start_in_text(written: Sequence[str], stop: str) -> int | None:
    """Returns where in the text a stop text starts, by comparing whole letters."""
    text = [letter for letter in written if letter != SPECIAL]
    starts = [n for n in range(len(text)) if "".join(text[n:]).startswith(stop)]
    wanted = letters(stop)
    starts += [
        sum(letter != SPECIAL for letter in written[:n])
        for n in range(len(written))
        if list(written[n : n + len(wanted)]) == wanted
    ]
    return min(starts, default=None)


@given(parts=PARTS, stops=STOPS)
@example(parts=["a", SPECIAL, "b"], stops=["ab"])
@example(parts=["a", SPECIAL, "b"], stops=[f"a{SPECIAL}b"])
@example(parts=["a", SPECIAL], stops=["b", "<"])
def test_a_text_ends_before_the_first_stop_text(
    parts: list[str], stops: list[str]
) -> None:
    generated = GeneratedText(tuple(stops))
    written: list[str] = []
    for part in parts:
        is_special = part == SPECIAL
        has_ended = generated.add("", part) if is_special else generated.add(part)
        written += [SPECIAL] if is_special else part
        text = "".join(letter for letter in written if letter != SPECIAL)
        found = [start_in_text(written, stop) for stop in stops]
        starts = [start for start in found if start is not None]
        assert has_ended == bool(starts)
        assert generated.text == (text[: min(starts)] if starts else text)
        if has_ended:
            break
