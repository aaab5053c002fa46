"""Style of all tables and of their cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from rich import box
from rich.cells import cell_len
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from llmpq_jax.report.table_layout import ColumnWidths, lay_out

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

from llmpq_jax.report.names import printable

T = TypeVar("T")
UNKNOWN = "–"
# Width of a column of texts below which wrapped lines are hard to read.
_COMFORTABLE = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    name: str
    is_text: bool
    is_identifying: bool


class ReportTable:
    """A table whose rows keep their names in a terminal of any width.

    Nothing is cut. Where the table is wider than the terminal, texts are wrapped, and
    columns that are too many are shown below the others, with those that identify
    a row once more (`table_layout`).

    Attributes:
        caption: Explanation below the table; a line break starts a paragraph.
    """

    def __init__(self, title: str, columns: Sequence[_Column]) -> None:
        """Starts without rows; see `new_table`."""
        self.caption = ""
        self._title = title
        self._columns = tuple(columns)
        self._rows: list[tuple[str, ...]] = []
        self._section_ends: set[int] = set()

    @property
    def identifying_cells(self) -> list[tuple[str, ...]]:
        """The cells that identify each row."""
        number = sum(column.is_identifying for column in self._columns)
        return [row[:number] for row in self._rows]

    def add_row(self, *cells: str) -> None:
        """Adds a row; cells that are left out at its end are empty."""
        missing = len(self._columns) - len(cells)
        # A file's names may hold what controls a terminal.
        self._rows.append((*map(printable, cells), *[""] * missing))

    def add_section(self) -> None:
        """Draws a line after the last row."""
        self._section_ends.add(len(self._rows) - 1)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        """Yields title, blocks of columns and caption, for rich."""
        yield Text(self._title, style="table.title")
        widths = [self._widths(number) for number in range(len(self._columns))]
        for number, block in enumerate(lay_out(widths, options.max_width)):
            lines = console.render_lines(self._drawn(block), options, pad=False)
            # A block ends with an empty line, and would begin with one too.
            for line in lines[1 if number else 0 :]:
                yield from line
                yield Segment.line()
        if self.caption:
            # What follows is not of the table.
            yield Text(f"{self.caption}\n", style="table.caption")

    def _widths(self, number: int) -> ColumnWidths:
        column = self._columns[number]
        lines = [line for row in self._rows for line in row[number].split("\n")]
        words = [word for line in lines for word in line.split()]
        # A number is not wrapped before its unit.
        unbroken = [*column.name.split(), *(words if column.is_text else lines)]
        narrowest = _longest(unbroken)
        widest = _longest([column.name, *lines])
        comfortable = narrowest
        if column.is_text:
            # Room for the "+" that follows a device of a mesh.
            comfortable = min(widest, max(_COMFORTABLE, narrowest + 2))
        return ColumnWidths(
            is_identifying=column.is_identifying,
            widest=widest,
            comfortable=comfortable,
            narrowest=narrowest,
        )

    def _drawn(self, widths: dict[int, int]) -> Table:
        """Returns some columns as a table of rich."""
        table = Table(box=box.SIMPLE_HEAD)
        for number, width in widths.items():
            column = self._columns[number]
            table.add_column(
                Text(column.name),
                justify="left" if column.is_text else "right",
                overflow="fold",
                width=width,
            )
        for index, row in enumerate(self._rows):
            # As strings, cells with brackets would be read as markup.
            cells = [Text(row[number]) for number in widths]
            table.add_row(*cells, end_section=index in self._section_ends)
        return table


def new_table(
    title: str,
    *left: str,
    right: Sequence[str] = (),
    last: Sequence[str] = (),
    identified_by: Sequence[str] | None = None,
) -> ReportTable:
    """Returns an empty table with columns in the order of the arguments.

    Args:
        title: Line above the table.
        left: Names of columns of texts.
        right: Names of columns of numbers, aligned to the right.
        last: Names of further columns of texts.
        identified_by: Names of the columns, from the first one on, that identify a row;
            None for the first one alone.
    """
    names = (*left, *right, *last)
    keys = tuple(identified_by or names[:1])
    assert names[: len(keys)] == keys, "the first columns identify a row"
    return ReportTable(
        title,
        [
            _Column(
                name=name,
                is_text=not len(left) <= number < len(left) + len(right),
                is_identifying=number < len(keys),
            )
            for number, name in enumerate(names)
        ],
    )


def known(value: T | None, form: Callable[[T], str]) -> str:
    """Returns a value as text, or a dash where it is None."""
    return UNKNOWN if value is None else form(value)


def arrow(predicted: T | None, measured: T | None, form: Callable[[T], str]) -> str:
    """Returns two values as text: "3 s → 4 s"."""
    return f"{known(predicted, form)} → {known(measured, form)}"


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=1)
