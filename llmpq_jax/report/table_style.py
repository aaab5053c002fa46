"""Style of all tables and of their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rich import box
from rich.console import RenderableType
from rich.table import Table

from llmpq_jax.report.names import printable

T = TypeVar("T")
UNKNOWN = "–"


class _PrintableTable(Table):
    """A table in which a cell cannot control a terminal, whatever a file's names hold."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Adds a row of cells."""
        shown = (printable(each) if isinstance(each, str) else each for each in cells)
        super().add_row(*shown, **options)


def new_table(title: str, *left: str, right: Sequence[str] = ()) -> Table:
    """Returns an empty table with columns, those in `right` after the others."""
    table = _PrintableTable(
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
