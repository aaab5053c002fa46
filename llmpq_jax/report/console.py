"""Output of the commands: lines and tables on stdout, log and progress on stderr."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

# Columns of tables in files and pipes, which have no width.
_WIDTH = 120


class Advance(Protocol):
    """Advances a progress bar."""

    def __call__(
        self, count: float, total: float | None = None, note: str | None = None
    ) -> None:
        """Advances the bar.

        Args:
            count: Units done since the last call.
            total: Units to do, once they are known.
            note: Text to show with the bar, in place of the last one.
        """
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

    if sys.stdout.isatty():
        Console(highlight=False).print(renderable)
        return
    plain = io.StringIO()
    Console(file=plain, width=_WIDTH, highlight=False).print(renderable)
    for line in plain.getvalue().splitlines():
        print_line(line.rstrip())


@contextmanager
def progress_bar(what: str, total: float | None, *, unit: str) -> Iterator[Advance]:
    """Shows a bar with its rate and the time left on stderr, if that is a terminal.

    Args:
        what: Name of the work, such as "loading".
        total: Units to do; None while they are unknown.
        unit: Name of the units in the plural, such as "tokens".

    Yields:
        Function that advances the bar.
    """
    if not sys.stderr.isatty():
        log(f"{what} …")
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
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
