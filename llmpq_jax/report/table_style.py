"""Style of all tables."""

from __future__ import annotations

from rich import box
from rich.table import Table


def new_table(title: str) -> Table:
    """Returns an empty table."""
    return Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )


def add_columns(table: Table, *names: str, justify: str = "left") -> None:
    """Adds columns of one alignment."""
    for name in names:
        table.add_column(name, justify="right" if justify == "right" else "left")
