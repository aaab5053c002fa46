from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.files import (
    check_folder,
    check_writable,
    is_stream,
    write_bytes,
    write_outputs,
    write_text,
)
from tests.support.devices import ReadPipe, full_device, null_device


def test_writing_makes_folders_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.toml"
    write_text(path, "first")
    write_text(path, "second")
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.toml"
    write_text(path, "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device", "a hidden name")

    monkeypatch.setattr("os.replace", refuse)
    message = f"output {path}: cannot be written (No space left on device): make room there, or name another file"
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = null_device(tmp_path / "null")
    check_writable(path)
    write_text(path, "text")
    assert path.is_char_device()
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_device_is_named(tmp_path: Path) -> None:
    path = full_device(tmp_path / "full")
    message = rf"^output {path}: cannot be written \(No space left on device\): make"
    with pytest.raises(RequestError, match=message):
        write_text(path, "text")
    assert path.is_char_device()


def test_a_pipe_is_written_to_once_something_reads_it(tmp_path: Path) -> None:
    pipe = ReadPipe(tmp_path / "pipe")
    check_writable(pipe.path)
    content = bytes(200_000)
    write_bytes(pipe.path, content)
    assert pipe.content() == content


@pytest.mark.parametrize("target", ["file", "missing", "null"])
def test_a_symbolic_link_is_followed(tmp_path: Path, target: str) -> None:
    path, link = tmp_path / "folder" / target, tmp_path / "link"
    path.parent.mkdir()
    if target == "file":
        path.write_text("old")
    elif target == "null":
        null_device(path)
    link.symlink_to(Path("folder") / target)
    check_writable(link)
    write_text(link, "new")
    assert link.is_symlink()
    assert path.is_char_device() if target == "null" else path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    for write in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(
            RequestError, match=r"\(Too many levels of symbolic links\)"
        ):
            write(link)
    assert link.is_symlink()


def test_what_cannot_be_written_is_refused_before_it_is(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        RequestError, match=r"/file/below: .* \(Not a directory\): name"
    ):
        check_writable(file / "below")
    with pytest.raises(
        RequestError, match=rf"^output {tmp_path}: .* \(Is a directory\)"
    ):
        check_writable(tmp_path)
    with pytest.raises(RequestError, match=rf"^folder {file}: .* \(Not a directory\)"):
        check_folder(file)
    check_writable(tmp_path / "a" / "b")
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == [file]


# Root may write to what is read-only, and a full disk takes a mount: the system is asked.
@pytest.mark.parametrize("check", [check_writable, check_folder])
def test_a_read_only_or_full_folder_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        with pytest.raises(RequestError, match=r"/out: .* \(Permission denied\): name"):
            check(tmp_path / "out")
    program = f"""
import resource
from pathlib import Path
from llmpq_jax.files import check_folder, check_writable
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
{check.__name__}(Path({str(tmp_path / "out")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "/out: cannot be written (File too large): make room" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_standard_output_is_written_to_where_it_is(tmp_path: Path) -> None:
    """A file would be replaced, and what is printed later would be lost."""
    program = """
from pathlib import Path
from llmpq_jax.files import is_stream, write_text
print("before", flush=True)
assert is_stream(Path("/dev/stdout"))
write_text(Path("/dev/stdout"), "between\\n")
print("after")
"""
    path = tmp_path / "out"
    with path.open("w") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, check=True)
    assert path.read_text() == "before\nbetween\nafter\n"
    assert not is_stream(path)


def test_an_output_that_fails_does_not_keep_others_from_being_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()

    def writer(name: str):
        return lambda: write_text(tmp_path / name, "text")

    names = ["file/one", "good", "file/two"]
    with pytest.raises(RequestError, match=r"/file/one: .*; output .*/file/two: "):
        write_outputs(map(writer, names))
    assert (tmp_path / "good").read_text() == "text"
