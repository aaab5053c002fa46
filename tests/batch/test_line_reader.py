"""The same lines at every reading, or an error that says that they are not."""

from __future__ import annotations

import os
import threading

import pytest

from llmpq_jax.batch.line_reader import LineReader
from llmpq_jax.errors import RequestError

CHANGED = r"^prompts .*: has changed while it was read: expected it to stay as it is"


def read(reader: LineReader) -> list[bytes]:
    return list(reader.lines(1 << 20))


@pytest.mark.parametrize("content", [b"a\nb\n", b"a\nx\nc\n", b"a\nb\nc\nd\n", b""])
def test_a_file_that_has_changed_between_readings_is_refused(tmp_path, content):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a\nb\nc\n")
    reader = LineReader(path, "prompts", pytest.fail)
    assert read(reader) == [b"a", b"b", b"c"]
    assert read(reader) == [b"a", b"b", b"c"]
    path.write_bytes(content)
    with pytest.raises(RequestError, match=CHANGED):
        read(reader)


@pytest.mark.parametrize("size_bytes", [0, 50_000, 1_200_000])
def test_a_file_that_changes_while_it_is_first_read_is_refused(tmp_path, size_bytes):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"line\n" * 200_000)
    lines = LineReader(path, "prompts", pytest.fail).lines(1 << 20)
    assert next(lines) == b"line"
    os.truncate(path, size_bytes)
    with pytest.raises(RequestError, match=CHANGED):
        list(lines)


def test_a_pipe_is_waited_for_with_a_word_and_read_again(tmp_path):
    path = tmp_path / "prompts.txt"
    os.mkfifo(path)
    said: list[str] = []
    is_said = threading.Event()

    def on_note(line: str) -> None:
        said.append(line)
        is_said.set()

    def write() -> None:
        # Nothing is written before it is said that this is waited for.
        assert is_said.wait(60)
        path.write_bytes("\ufeffä\nb\n".encode() * 50_000)

    threading.Thread(target=write, daemon=True).start()
    reader = LineReader(path, "prompts", on_note)
    first = read(reader)
    assert len(first) == 100_000
    assert first[:2] == ["ä".encode(), b"b"]
    assert read(reader) == first
    assert said == [f"prompts {path}: is a pipe: waiting for what is written to it"]
