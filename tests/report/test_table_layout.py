"""Laws of the layout of columns, for any widths and any terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.report.table_layout import ColumnWidths, lay_out


@st.composite
def columns(draw: st.DrawFn) -> list[ColumnWidths]:
    num_identifying = draw(st.integers(1, 2))
    num_others = draw(st.integers(1, 9))
    found = []
    for number in range(num_identifying + num_others):
        sizes = sorted(draw(st.tuples(*[st.integers(1, 40)] * 3)))
        found.append(
            ColumnWidths(
                is_identifying=number < num_identifying,
                narrowest=sizes[0],
                comfortable=sizes[1],
                widest=sizes[2],
            )
        )
    return found


def total(widths: dict[int, int]) -> int:
    return 1 + sum(width + 3 for width in widths.values())


@given(columns(), st.integers(24, 160))
def test_each_block_fits_and_begins_with_what_identifies_its_rows(
    columns: list[ColumnWidths], width: int
):
    blocks = lay_out(columns, width)
    identifying = [n for n, each in enumerate(columns) if each.is_identifying]
    for block in blocks:
        assert total(block) <= width
        assert list(block)[: len(identifying)] == identifying
        assert min(block.values()) >= 1
    others = [n for block in blocks for n in block if n not in identifying]
    assert others == list(range(len(identifying), len(columns)))


@given(columns(), st.integers(24, 160))
def test_a_word_is_broken_only_in_a_block_of_one_other_column(
    columns: list[ColumnWidths], width: int
):
    num_identifying = sum(each.is_identifying for each in columns)
    for block in lay_out(columns, width):
        narrowest = {n: columns[n].narrowest for n in block}
        if any(block[n] < narrowest[n] for n in block):
            assert len(block) == num_identifying + 1
            assert total(narrowest) > width


@given(columns())
def test_a_table_that_fits_is_left_as_it_is(columns: list[ColumnWidths]):
    widest = {n: each.widest for n, each in enumerate(columns)}
    assert lay_out(columns, total(widest)) == [widest]


def test_texts_are_wrapped_before_what_identifies_a_row():
    name = ColumnWidths(is_identifying=True, widest=30, comfortable=10, narrowest=5)
    text = ColumnWidths(is_identifying=False, widest=30, comfortable=10, narrowest=5)
    number = ColumnWidths(is_identifying=False, widest=8, comfortable=8, narrowest=8)
    columns = [name, text, number]
    assert lay_out(columns, 58) == [{0: 30, 1: 10, 2: 8}]
    assert lay_out(columns, 48) == [{0: 20, 1: 10, 2: 8}]
    assert lay_out(columns, 37) == [{0: 20, 1: 10}, {0: 22, 2: 8}]
