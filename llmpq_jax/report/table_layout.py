"""Widths of a table's columns, and which of them are shown below the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

# Characters between two cells, and left of the first, as `rich.box.SIMPLE_HEAD` has them.
_GAP = 3
_EDGE = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnWidths:
    """Widths that a column may have, in characters.

    Attributes:
        is_identifying: Whether the column is one of those that identify a row.
        widest: Width at which no line is wrapped.
        comfortable: Width from which on wrapped lines are easy to read.
        narrowest: Width at which no word is broken, nor a number from its unit.
    """

    is_identifying: bool
    widest: int
    comfortable: int
    narrowest: int


# Smallest width of each column, in the order in which a block is narrowed.
_STEPS: tuple[Callable[[ColumnWidths], int], ...] = (
    lambda column: column.widest if column.is_identifying else column.comfortable,
    lambda column: column.comfortable,
    lambda column: column.comfortable if column.is_identifying else column.narrowest,
    lambda column: column.narrowest,
    lambda _: 1,
)


def lay_out(columns: Sequence[ColumnWidths], width: int) -> list[dict[int, int]]:
    """Divides columns over blocks, none wider than the terminal; returns their widths.

    Texts are wrapped first, those that identify no row before the others. Columns that
    are too many even then go into further blocks, each of which begins with those that
    identify its rows. Words are broken only in a block that is still too wide with one
    other column.

    Args:
        columns: Columns in the order in which they are shown.
        width: Width of the terminal, in characters.

    Returns:
        The widths of each block's columns, by the column's number.
    """
    identifying = [n for n, column in enumerate(columns) if column.is_identifying]
    blocks = [identifying]
    for number in range(len(columns)):
        if number in identifying:
            continue
        longer = [*blocks[-1], number]
        fits = _total(columns[n].comfortable for n in longer) <= width
        if fits or blocks[-1] == identifying:
            blocks[-1] = longer
        else:
            blocks.append([*identifying, number])
    return [_narrowed(columns, block, width) for block in blocks]


def _narrowed(
    columns: Sequence[ColumnWidths], block: Sequence[int], width: int
) -> dict[int, int]:
    """Returns the widths of a block, its widest columns narrowed until it fits."""
    widths = {number: columns[number].widest for number in block}
    for smallest in _STEPS:
        while _total(widths.values()) > width:
            room = [n for n in block if widths[n] > smallest(columns[n])]
            if not room:
                break
            widths[max(room, key=lambda number: widths[number])] -= 1
    return widths


def _total(widths: Iterable[int]) -> int:
    return _EDGE + sum(width + _GAP for width in widths)
