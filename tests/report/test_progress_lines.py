from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.report.progress_lines import ProgressLines, every_minute


@given(st.lists(st.integers(0, 10**6), min_size=1), st.floats(1.0, 1e5))
def test_counts_add_up_and_the_time_left_is_that_of_the_mean_rate(counts, elapsed_s):
    times_s = iter([0.0, elapsed_s])
    lines = ProgressLines(
        "reading", 2 * sum(counts), unit="rows", clock=lambda: next(times_s)
    )
    for count in counts:
        lines.advance(count)
    head, *rest = lines.line().split(" rows in ")
    assert head == f"reading: {sum(counts):,} of {2 * sum(counts):,}"
    taken, *rate_and_left = rest[0].split(", ")
    if sum(counts):
        assert rate_and_left[-1] == f"about {taken} left"


def test_the_rate_is_that_of_the_last_lines():
    times_s = iter([0.0, *(60.0 * minute for minute in range(1, 13))])
    lines = ProgressLines("measuring", 1000, unit="rows", clock=lambda: next(times_s))
    lines.advance(400)  # by an earlier run
    for _ in range(11):
        lines.advance(12)
        lines.line()
    assert lines.line() == (
        "measuring: 532 of 1,000 rows in 12 min 00 s, 0.18/s, about 43 min 20 s left"
    )


def test_an_action_is_repeated_until_the_work_ends():
    called = threading.Event()
    count = 0

    def action() -> None:
        nonlocal count
        count += 1
        if count == 3:
            called.set()

    with every_minute(action, period_s=1e-4):
        assert called.wait(30.0)
    ended = count
    assert ended >= 3
    assert not any(each.name == "llmpq-progress" for each in threading.enumerate())
