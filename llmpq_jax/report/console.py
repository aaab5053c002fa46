"""Where people read: lines and tables on stdout, progress on stderr."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType

# Of files and pipes, which have no width of their own.
_WIDTH = 120


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(
        self, count: float, total: float | None = None, note: str | None = None
    ) -> None:
        """Takes units done since the last call, the total once known, and a remark."""
        ...


def say(text: str = "") -> None:
    """Writes a line to stdout, as it is."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def tell(text: str) -> None:
    """Writes a line about the work itself to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show(renderable: RenderableType) -> None:
    """Writes a table to stdout, coloured and as wide as the terminal if it is one."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(renderable)
        return
    plain = io.StringIO()
    Console(file=plain, width=_WIDTH, highlight=False).print(renderable)
    for line in plain.getvalue().splitlines():
        say(line.rstrip())


@contextmanager
def progress_bar(what: str, total: float | None, *, unit: str) -> Iterator[Advance]:
    """Shows a bar with its rate and the time left on stderr, if that is a terminal.

    Args:
        what: Is being done.
        total: Units to do; absent where nobody knows.
        unit: In the plural: "tokens".

    Yields:
        What moves it on.
    """
    if not sys.stderr.isatty():
        tell(f"{what} …")
        yield _stand_still
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


def _stand_still(
    count: float, total: float | None = None, note: str | None = None
) -> None:
    del count, total, note
