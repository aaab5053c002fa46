"""A quantised checkpoint as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from llmpq_jax.report.table_style import add_columns, new_table
from llmpq_jax.units import format_bytes

if TYPE_CHECKING:
    from llmpq_jax.checkpoint.writer import WrittenModule


def written_table(parts: Sequence[WrittenModule]) -> Table:
    """Shows bytes before and after, of embedding, head and the layers of each precision."""
    table = new_table("The checkpoint: bytes before and after")
    add_columns(table, "")
    add_columns(table, "bits", "before", "after", justify="right")
    sizes: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for part in parts:
        key = (part.kind, -part.bits)
        sizes.setdefault(key, []).append((part.bytes_before, part.bytes_after))
    for kind in ("embedding", "layer", "head"):
        for (_, bits), rows in sorted(
            each for each in sizes.items() if each[0][0] == kind
        ):
            plural = "s" if len(rows) > 1 else ""
            name = f"{len(rows)} layer{plural}" if kind == "layer" else kind
            before, after = map(sum, zip(*rows, strict=True))
            table.add_row(name, str(-bits), format_bytes(before), format_bytes(after))
    before = sum(part.bytes_before for part in parts)
    after = sum(part.bytes_after for part in parts)
    table.add_section()
    table.add_row("total", "", format_bytes(before), format_bytes(after))
    table.caption = f"{after / before:.1%} of the weights' bytes"
    return table
