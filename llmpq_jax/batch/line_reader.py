"""Reads a file line by line, any number of times, and notices if it has changed meanwhile."""

from __future__ import annotations

import hashlib
import os
import select
import stat
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from llmpq_jax.errors import RequestError
from llmpq_jax.files import reading
from llmpq_jax.interrupts import check_interrupt
from llmpq_jax.units import MIB

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_POLL_MS = 100


class LineReader:
    """A file whose lines are read again and again, always the same ones.

    What a pipe brings is kept in a temporary file without a name.
    """

    def __init__(self, path: Path, what: str, on_note: Callable[[str], None]) -> None:
        """Takes the kind of file for messages, and what is called if a pipe is waited for."""
        self._path = path
        self._what = what
        self._on_note = on_note
        self._received: BinaryIO | None = None
        self._digest: bytes | None = None

    def lines(self, max_bytes: int) -> Iterator[bytes]:
        """Yields lines without their ends; a longer one is cut one byte above the maximum.

        A line ends at a line feed only: other characters that end lines elsewhere may
        be part of JSON texts.

        Raises:
            RequestError: The file cannot be read, or has changed while it was read.
        """
        with reading(self._path, self._what, "a .jsonl or .txt file", RequestError):
            file, size_bytes = self._open()
            try:
                digest = hashlib.blake2b()
                if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
                    file.seek(0)
                while line := file.readline(max_bytes + 1):
                    digest.update(line)
                    rest = line
                    while len(rest) > max_bytes and not rest.endswith(b"\n"):
                        rest = file.readline(max_bytes + 1)
                        digest.update(rest)
                    yield line.removesuffix(b"\n").removesuffix(b"\r")
                read_bytes = file.seek(0, os.SEEK_CUR)
            finally:
                if file is not self._received:
                    file.close()
        self._digest = self._digest or digest.digest()
        if read_bytes != size_bytes or digest.digest() != self._digest:
            msg = f"{self._what} {self._path}: has changed while it was read: expected it to stay as it is; run the command again, with --resume to keep results that are there"
            raise RequestError(msg)

    def _open(self) -> tuple[BinaryIO, int]:
        """Returns the file, at its start, and its size before it is read."""
        if self._received is None and _is_pipe(self._path):
            self._received = self._receive()
        file = self._received
        if file is None:
            file = self._path.open("rb")
        file.seek(0)
        return file, os.fstat(file.fileno()).st_size

    def _receive(self) -> BinaryIO:
        """Waits for what is written to a pipe, up to its end."""
        kept = tempfile.TemporaryFile()  # noqa: SIM115 (it is read again and again)
        weakref.finalize(self, kept.close)
        # Opening a pipe in blocking mode could not be interrupted.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            is_noted = False
            while True:
                check_interrupt()
                ready = poll.poll(_POLL_MS)
                if ready:
                    content = os.read(descriptor, MIB)
                    if not content:
                        break
                    kept.write(content)
                elif not is_noted:
                    self._on_note(
                        f"{self._what} {self._path}: is a pipe: waiting for what is written to it"
                    )
                    is_noted = True
        finally:
            os.close(descriptor)
        kept.flush()
        return kept


def _is_pipe(path: Path) -> bool:
    mode = path.stat().st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
