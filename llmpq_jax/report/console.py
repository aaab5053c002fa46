"""Output of the commands: lines and tables on stdout, log and progress on stderr."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llmpq_jax.units import format_seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from llmpq_jax.planner import Progress

# Columns of tables in files and pipes, which have no width.
_WIDTH = 120


class Advance(Protocol):
    """Advances a progress bar."""

    def __call__(
        self, count: float, total: float | None = None, note: str | None = None
    ) -> None:
        """Advances the bar; sets its total, once it is known, and the note in it."""
        ...


def print_line(text: str = "") -> None:
    """Writes a line to stdout, unformatted."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_json(values: object) -> None:
    """Writes values to stdout as JSON."""
    print_line(json.dumps(values, indent=2))


def print_paths(**paths: Path | None) -> None:
    """Writes a line for each file that there is, after its name with spaces for `_`."""
    for name, path in paths.items():
        if path is not None:
            print_line(f"{name.replace('_', ' '):<12} {path}")


def log(text: str) -> None:
    """Writes a line about the progress of the work to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_table(renderable: RenderableType) -> None:
    """Writes a table to stdout, coloured and as wide as the terminal if it is one."""
    from rich.console import Console

    # Names in a table are no markup, whatever brackets and colons they have.
    as_they_are = partial(Console, highlight=False, markup=False, emoji=False)
    if sys.stdout.isatty():
        as_they_are().print(renderable)
        return
    plain = io.StringIO()
    as_they_are(file=plain, width=_WIDTH).print(renderable)
    for line in plain.getvalue().splitlines():
        print_line(line.rstrip())


@contextmanager
def progress_bar(what: str, total: float | None, *, unit: str) -> Iterator[Advance]:
    """Shows a bar with its rate and the time left on stderr, if that is a terminal.

    Yields a function that advances the bar. `what` is the name of the work, such as
    "loading", `unit` that of its units in the plural, `total` None while it is unknown.
    """
    if not sys.stderr.isatty():
        log(f"{what} …")
        yield _ignore
        return
    from rich import progress
    from rich.console import Console

    bar = progress.Progress(
        # Descriptions have names of devices, which are no markup.
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(what, total=total, rate=unit)

        def advance(
            count: float, total: float | None = None, note: str | None = None
        ) -> None:
            if note is not None:
                bar.update(task, description=f"{what}: {note}")
            if total is not None:
                bar.update(task, total=total)
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=unit if speed is None else f"{unit}, {speed:.3g}/s")

        yield advance


def _ignore(count: float, total: float | None = None, note: str | None = None) -> None:
    del count, total, note


def state_callback(advance: Advance) -> Callable[[Progress], None]:
    """Returns a callback for states of a search that advances a bar."""
    num_shown = 0

    def show(state: Progress) -> None:
        nonlocal num_shown
        advance(
            max(0, state.num_done - num_shown),
            state.num_subproblems,
            search_note(state),
        )
        num_shown = max(num_shown, state.num_done)

    return show


def note_callback(advance: Advance) -> Callable[[str], None]:
    """Returns a callback that shows notes in a bar, or as lines where there is no terminal."""

    def show_note(note: str) -> None:
        if sys.stderr.isatty():
            advance(0, note=note)
        else:
            log(note)

    return show_note


def search_note(state: Progress) -> str:
    """Returns the best plan and its bound: "best 12.4 s, bound 12.3 s (gap 0.6 %)"."""
    if state.best == float("inf"):
        return "no plan yet"
    gap = max(0.0, 1.0 - state.bound / state.best) if state.best > 0 else 0.0
    best, bound = format_seconds(state.best), format_seconds(max(state.bound, 0.0))
    return f"best {best}, bound {bound} (gap {100 * gap:.2g} %)"
