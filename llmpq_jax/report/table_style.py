"""Style of all tables and of their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich import box
from rich.table import Table

T = TypeVar("T")
UNKNOWN = "–"


def new_table(title: str, *left: str, right: Sequence[str] = ()) -> Table:
    """Returns an empty table with columns, those in `right` after the others."""
    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def known(value: T | None, form: Callable[[T], str]) -> str:
    """Returns a value as text, or a dash where it is None."""
    return UNKNOWN if value is None else form(value)


def arrow(predicted: T | None, measured: T | None, form: Callable[[T], str]) -> str:
    """Returns two values as text: "3 s → 4 s"."""
    return f"{known(predicted, form)} → {known(measured, form)}"
