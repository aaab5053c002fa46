"""A file is whole and says what it holds, or it is refused when it is opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from llmpq_jax.checkpoint.safetensors_file import read_header, read_stored
from llmpq_jax.errors import CheckpointError

SOUND = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4)})


def _file(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def _entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@given(st.integers(0, len(SOUND) - 1))
def test_a_file_cut_short_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, num_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(SOUND[:num_bytes])
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: .*expected a whole sa"
    ):
        read_header(path)


def test_a_file_that_goes_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(SOUND + b"\0")
    with pytest.raises(
        CheckpointError, match=rf"has {len(SOUND) + 1} bytes, its header describes"
    ):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{]", b"", r"its header is not JSON \("),
        (b"\xff", b"", r"its header is not JSON \("),
        ([], b"", r"its header is a list: expected a JSON object of tensors"),
        ({"a": 3}, b"", r"tensor 'a' is described by 3: expected dtype, shape and"),
        ({"a": _entry(shape=[-2])}, b"", r"tensor 'a' is described by \{"),
        ({"a": _entry(shape=[True, 2])}, b"", r"tensor 'a' is described by \{"),
        ({"a": _entry(data_offsets=[0])}, b"", r"tensor 'a' is described by \{"),
        (
            {"a": _entry(dtype="F4")},
            b"",
            r"'a' has dtype 'F4': expected one of BOOL, U8",
        ),
        (
            {"a": _entry(shape=[3])},
            bytes(8),
            r"'a' has 8 bytes: expected 12 for \[3\] of",
        ),
        (
            {"a": _entry(), "b": _entry(data_offsets=[4, 12])},
            bytes(12),
            r"tensor 'b' begins at byte \d+: expected \d+, where the one before it ends",
        ),
        (
            {"a": _entry(data_offsets=[4, 12])},
            bytes(12),
            r"tensor 'a' begins at byte \d+: expected \d+",
        ),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(
    tmp_path: Path, header: object, data: bytes, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_header(_file(tmp_path / "model.safetensors", header, data))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"cannot be read \(No such file or directory"
    ):
        read_header(tmp_path / "model.safetensors")


def test_a_file_that_shrinks_while_it_is_served_is_noticed(tmp_path: Path) -> None:
    path = _file(tmp_path / "model.safetensors", {"a": _entry()}, bytes(8))
    tensor = read_header(path)["a"]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(
        CheckpointError, match=r"tensor 'a' ends 3 bytes early: expected the"
    ):
        read_stored(tensor)


def test_a_file_that_vanishes_while_it_is_served_is_noticed(tmp_path: Path) -> None:
    path = _file(tmp_path / "model.safetensors", {"a": _entry()}, bytes(8))
    tensor = read_header(path)["a"]
    path.unlink()
    with pytest.raises(
        CheckpointError, match=r"tensor 'a' cannot be read \(No such file"
    ):
        read_stored(tensor)
