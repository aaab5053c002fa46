"""Device nodes, pipes and full disks of a test's own: never those of the machine."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Major and minor numbers of Linux's memory devices.
_NULL, _FULL = (1, 3), (1, 7)


def null_device(path: Path) -> Path:
    """Makes a device that takes everything."""
    return _device(path, _NULL)


def full_device(path: Path) -> Path:
    """Makes a device that is a full disk."""
    return _device(path, _FULL)


def _device(path: Path, numbers: tuple[int, int]) -> Path:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(*numbers))
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    return path


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """Lets no file of this process grow larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class ReadPipe:
    """A pipe with a name, and what was written to it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._content = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._content = self.path.read_bytes()

    def content(self) -> bytes:
        """Waits until nothing writes any more; returns all that was written."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.path.is_fifo()
        return self._content
