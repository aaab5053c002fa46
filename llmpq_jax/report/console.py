"""Where people read: lines and tables on stdout, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

# Of files and pipes, which have no width of their own.
_WIDTH = 100


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

    width = None if sys.stdout.isatty() else _WIDTH
    Console(width=width, highlight=False).print(renderable)


@contextmanager
def progress_bar(
    what: str, total: float | None, *, unit: str
) -> Iterator[Callable[[float], None]]:
    """Shows a bar with its rate on stderr, if that is a terminal.

    Args:
        what: Is being done.
        total: Units to do; absent where nobody knows.
        unit: In the plural: "tokens".

    Yields:
        A function to call with the number of units done since the last call.
    """
    if not sys.stderr.isatty():
        tell(f"{what} …")
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(what, total=total, rate=unit)

        def advance(count: float) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=unit if speed is None else f"{unit}, {speed:.3g}/s")

        yield advance
