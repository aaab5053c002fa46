from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.errors import RequestError


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
        | st.sampled_from(["a", "A", "a\0", "a\0b", "1", "1.0"])
    )
)
def test_names_are_kept_as_a_dictionary_would_keep_them(names):
    first: dict[str, int] = {}
    with closing(IdIndex()) as seen:
        for number, name in enumerate(names):
            assert seen.find(name) == first.get(name)
            assert seen.add(name, number) == first.get(name)
            first.setdefault(name, number)


def test_no_room_for_temporary_files_is_one_line(monkeypatch):
    class Full(sqlite3.Connection):
        def execute(self, sql, *parameters):
            if sql.startswith("INSERT"):
                reason = "database or disk is full"
                raise sqlite3.OperationalError(reason)
            return super().execute(sql, *parameters)

    connect = partial(sqlite3.connect, factory=Full)
    monkeypatch.setattr(sqlite3, "connect", connect)
    message = r"7 lines cannot be kept .*disk is full"
    with closing(IdIndex()) as seen, pytest.raises(RequestError, match=message):
        seen.add("a", 7)
