from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmpq_jax.planner import Progress
from llmpq_jax.report.console import (
    log,
    print_line,
    progress_bar,
    search_note,
    state_callback,
)


def test_results_and_progress_go_apart(capsys):
    print_line("result")
    log("progress")
    assert capsys.readouterr() == ("result\n", "progress\n")


def test_a_pipe_gets_one_line_of_short_work(capsys):
    with progress_bar("loading", 3, unit="layers") as advance:
        advance(1)
        advance(2)
    assert capsys.readouterr() == ("", "loading …\n")


def test_a_pipe_gets_a_line_of_long_work_each_minute(capsys):
    now_s = 0.0
    minutes: list[Callable[[], None]] = []

    @contextmanager
    def repeating(action: Callable[[], None]) -> Iterator[None]:
        minutes.append(action)
        yield
        minutes.clear()

    with progress_bar(
        *("solving", None),
        unit="subproblems",
        repeating=repeating,
        clock=lambda: now_s,
    ) as advance:
        (log_minute,) = minutes
        now_s = 60.0
        log_minute()
        advance(5, 20, "no plan yet")
        now_s = 125.0
        log_minute()
        advance(15, note="best 2 s")
        now_s = 200.0
        log_minute()
    assert minutes == []
    assert capsys.readouterr().err.splitlines() == [
        "solving …",
        "solving: 0 subproblems in 60 s",
        "solving: 5 of 20 subproblems in 2 min 05 s, 0.04/s, about 6 min 15 s left; "
        "no plan yet",
        "solving: 20 of 20 subproblems in 3 min 20 s, 0.1/s; best 2 s",
    ]


def test_a_terminal_gets_a_bar_with_its_rate(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_bar("generating", 4, unit="tokens") as advance:
        for _ in range(4):
            advance(1)
    out, shown = capsys.readouterr()
    assert out == ""
    assert "generating" in shown
    assert "4/4" in shown
    assert "tokens, " in shown
    assert "/s" in shown


def test_a_total_may_come_late(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("solving", None, unit="subproblems") as advance:
        advance(1, 7)
        advance(6)
    assert "7/7" in capsys.readouterr().err


def state(num_done: int, best: float) -> Progress:
    return Progress(
        num_done=num_done, num_subproblems=4, best=best, bound=1.98, seconds=0.0
    )


def test_the_best_plan_and_its_bound_are_shown():
    assert search_note(state(0, 2.0)) == "best 2 s, bound 1.98 s (gap 1 %)"
    assert search_note(state(0, float("inf"))) == "no plan yet"


def test_a_subproblem_is_counted_once():
    moves = []

    def advance(count, total=None, note=None):
        moves.append((count, total, note))

    show = state_callback(advance)
    for done in (1, 1, 3, 2):
        show(state(done, float("inf")))
    assert moves == [(move, 4, "no plan yet") for move in (1, 0, 2, 0)]
