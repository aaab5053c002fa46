"""Outputs: files that are written completely or not at all, and streams.

A stream is what a file's name may lead to besides a plain file: a device, a pipe, or the
standard output of this process. It is written to where it is, as a shell's `>` would do;
anything else would replace the machine's null device by a file. Symbolic links are followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from llmpq_jax.errors import RequestError
from llmpq_jax.interrupts import check_interrupt, not_ending, undone_at_end

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A block of the disk: a full one is noticed before the work whose result would not fit.
_PROBE_BYTES = 4096
_POLL_S = 0.1


@contextmanager
def writing(path: Path, what: str = "output") -> Iterator[None]:
    """Turns a body's failures to write a file into a RequestError that names the path.

    The path is the one that the user typed, and `what` the kind of file.
    """
    try:
        yield
    except OSError as reason:
        remedy = f"name another {'folder' if what == 'folder' else 'file'}"
        if reason.errno in _FULL:
            remedy = f"make room there, or {remedy}"
        msg = (
            f"{what} {path}: cannot be written ({reason.strerror or reason}): {remedy}"
        )
        raise RequestError(msg) from reason


def is_stream(path: Path) -> bool:
    """Whether a path leads to a device, a pipe, or this process's standard output."""
    try:
        found = path.stat()
    except OSError:
        return False
    if stat.S_ISREG(found.st_mode):
        return _standard_output(found) is not None
    return not stat.S_ISDIR(found.st_mode)


def write_text(path: Path, text: str) -> None:
    """Writes a text file; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it when it is complete.

    A stream is written to directly.

    Raises:
        RequestError: It cannot be written; an old file stays as it was.
    """
    with writing(path):
        if is_stream(path):
            descriptor = open_stream(path)
            try:
                write_all(descriptor, content)
            finally:
                os.close(descriptor)
        else:
            _replace(_target(path), content)


def write_outputs(writers: Iterable[Callable[[], None]]) -> None:
    """Writes several outputs; one that cannot be written does not keep others from it.

    Raises:
        RequestError: Some cannot be written; the message has those of all.
    """
    failures: list[str] = []
    for write in writers:
        try:
            write()
        except RequestError as reason:
            failures.append(str(reason))
    if failures:
        raise RequestError("; ".join(failures))


def open_stream(path: Path) -> int:
    """Opens a stream for writing, a pipe once something reads it; returns a descriptor."""
    own = _standard_output(path.stat())
    if own is not None:
        # It has a position in its file, which another descriptor would not move.
        return os.dup(own)
    while True:
        try:
            descriptor = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY
            )
        except OSError as reason:
            # Opening a pipe in blocking mode could not be interrupted.
            if reason.errno != errno.ENXIO or not path.is_fifo():
                raise
            check_interrupt()
            time.sleep(_POLL_S)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def write_all(descriptor: int, content: bytes) -> None:
    """Writes all bytes; a single call may write only some, as on a full disk."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def check_writable(path: Path) -> None:
    """Refuses an output that cannot be written, before the work whose result it is.

    Nothing is left behind, and an old file is not opened.

    Raises:
        RequestError: It is a folder, or its folder is missing, full or read-only.
    """
    with writing(path):
        if path.exists():
            _check_access(path, os.W_OK)
        if not is_stream(path):
            _probe(_target(path).parent)


def check_folder(path: Path) -> None:
    """Refuses a folder in which nothing can be written; it need not exist yet.

    Raises:
        RequestError: It is a file, or cannot be made or written to.
    """
    with writing(path, "folder"):
        _probe(Path(os.path.realpath(path)))


def _target(path: Path) -> Path:
    """Returns the path of a file after its symbolic links."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _replace(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = name_aside(target)
    with undone_at_end(partial(aside.unlink, missing_ok=True)):
        try:
            with aside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.chmod(0o644)
            with not_ending():
                aside.replace(target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def name_aside(target: Path) -> Path:
    """Returns a temporary name next to a file or folder that is being made."""
    return target.with_name(f".{target.name[:60]}.{secrets.token_hex(8)}")


def _probe(folder: Path) -> None:
    """Writes to a file without a name in a folder, or in the nearest one that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    _check_access(folder, os.W_OK | os.X_OK)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_PROBE_BYTES))


def _check_access(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _standard_output(found: os.stat_result) -> int | None:
    """Returns the descriptor of standard output or error that leads to a file."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None
