"""Files that lines are appended to: a plain one, locked and watched, or a stream."""

from __future__ import annotations

import fcntl
import os
import shutil
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Literal, final

from llmpq_jax.errors import RequestError
from llmpq_jax.files import is_stream, open_stream, write_all

# What to do with a file that exists already.
IfExists = Literal["refuse", "replace", "resume"]


class LineFile(ABC):
    """An open file that lines are appended to.

    Attributes:
        num_bytes: Number of bytes of the lines that are kept.
        num_lines: Number of lines that are kept.
        keeps: Whether lines can be read again, so that a run can be resumed.
    """

    keeps: bool

    def __init__(self, path: Path, descriptor: int) -> None:
        """Takes an open descriptor of the path that was typed."""
        self.path = path
        self.num_bytes = 0
        self.num_lines = 0
        self._descriptor = descriptor

    @abstractmethod
    def check(self) -> None:
        """Raises a RequestError if something else has changed the file."""

    @abstractmethod
    def append(self, line: bytes) -> None:
        """Appends a line.

        Raises:
            OSError: It cannot be written; earlier lines stay.
            RequestError: Something else has changed the file.
        """

    def cut(self, num_bytes: int, num_lines: int) -> None:
        """Drops all that follows these first bytes and lines."""
        self.num_bytes, self.num_lines = num_bytes, num_lines

    def close(self, *, drops: bool) -> None:
        """Closes the file, and deletes it if it is to be dropped."""
        del drops
        os.close(self._descriptor)


@final
class PlainLineFile(LineFile):
    """A plain file, which one process at a time has open; each line is on disk."""

    keeps = True

    def append(self, line: bytes) -> None:
        """Appends a line, and returns when it is on disk; see `LineFile.append`."""
        self.check(line)
        try:
            write_all(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError:
            # A later run would drop half a line, but there need not be one.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self.num_bytes)
            raise
        self.num_bytes += len(line)
        self.num_lines += 1

    def cut(self, num_bytes: int, num_lines: int) -> None:
        """Drops all that follows these first bytes and lines."""
        super().cut(num_bytes, num_lines)
        os.ftruncate(self._descriptor, num_bytes)

    def check(self, unwritten: bytes = b"") -> None:
        """Refuses to go on with a file that was removed, replaced or changed meanwhile.

        Lines that nothing but this process can reach are written to a new file, with
        one that is not written yet.

        Raises:
            RequestError: It was; the message says where the lines are.
        """
        found = os.fstat(self._descriptor)
        try:
            is_there = os.path.samestat(found, self.path.stat())
        except OSError:
            is_there = False
        if not is_there:
            where = self._rescue(unwritten)
            msg = f"results {self.path}: was removed or replaced while the job ran: the {self.num_lines} results {where}"
            raise RequestError(msg)
        if found.st_size != self.num_bytes:
            msg = f"results {self.path}: was changed while the job ran: it has {found.st_size} bytes, {self.num_bytes} were written; go on with --resume, which serves again what is missing"
            raise RequestError(msg)

    def close(self, *, drops: bool) -> None:
        """Closes the file, and deletes it if it is to be dropped."""
        if drops:
            with suppress(OSError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    Path(os.path.realpath(self.path)).unlink()
        super().close(drops=drops)

    def _rescue(self, unwritten: bytes) -> str:
        """Copies the lines, and one that is not written yet, to a new file next to it.

        Returns what became of them, for a message.
        """
        number = 1
        while (kept := self.path.with_name(f"{self.path.name}.kept-{number}")).exists():
            number += 1
        try:
            with (
                os.fdopen(os.dup(self._descriptor), "rb") as source,
                kept.open("xb") as file,
            ):
                source.seek(0)
                shutil.copyfileobj(source, file)
                file.write(unwritten)
        except OSError as reason:
            return f"cannot be kept in {kept} ({reason.strerror or reason}); run it again into another file"
        self.num_lines += bool(unwritten)
        return f"are kept in {kept}; rename it to {self.path.name}, then go on with --resume"


@final
class StreamLineFile(LineFile):
    """A device or a pipe, of which nothing can be read again."""

    keeps = False

    def check(self) -> None:
        """Does nothing: what was written is gone."""

    def append(self, line: bytes) -> None:
        """Writes a line; see `LineFile.append`."""
        write_all(self._descriptor, line)
        self.num_bytes += len(line)
        self.num_lines += 1


def open_lines(path: Path, if_exists: IfExists) -> LineFile:
    """Opens a file of results, and locks it for this process, for as long as that runs.

    Raises:
        RequestError: It exists and is not to be replaced or resumed, is open in another
            process, or cannot be written or, if that is needed, read again.
    """
    if is_stream(path):
        if if_exists == "resume":
            msg = f"results {path}: is a device or a pipe, which cannot be read again: name a file, or leave out --resume"
            raise RequestError(msg)
        try:
            return StreamLineFile(path, open_stream(path))
        except OSError as reason:
            raise RequestError(_cannot_write(path, reason)) from reason
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if if_exists == "refuse":
        flags |= os.O_EXCL
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, flags, 0o644)
    except FileExistsError as reason:
        msg = f"results {path}: is there already: name another file, or say --resume to go on with it or --overwrite"
        raise RequestError(msg) from reason
    except OSError as reason:
        raise RequestError(_cannot_write(path, reason)) from reason
    try:
        _lock(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return PlainLineFile(path, descriptor)


def _lock(path: Path, descriptor: int) -> None:
    try:
        # The lock ends with the process, however that ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as reason:
        msg = f"results {path}: another process is writing it: wait for its end, or name another file"
        raise RequestError(msg) from reason
    except OSError as reason:
        msg = f"results {path}: cannot be locked ({reason.strerror or reason}): name a file in a folder where it can"
        raise RequestError(msg) from reason


def _cannot_write(path: Path, reason: OSError) -> str:
    return f"results {path}: cannot be written ({reason.strerror or reason}): name another file"
