"""A file of results: JSON lines, each on disk before the next is written.

The file is the only record of progress: a prompt with a line there is done. It survives
the end of its writer at any moment: `resume` drops a line that was cut off, and
continues after the last complete one.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.batch.manifest import (
    Manifest,
    check_manifest,
    manifest_path,
    write_manifest,
)
from llmpq_jax.errors import RequestError
from llmpq_jax.files import json_text

# What to do with a file that exists already.
IfExists = Literal["refuse", "replace", "resume"]


class ResultsFile:
    """A file of results that is open for appending, by one process at a time.

    A run that fails before its first result leaves no new file, and leaves an old one
    unchanged.

    Attributes:
        num_kept: Number of results from earlier runs.
        num_kept_errors: Number of bad lines among these.
    """

    def __init__(
        self,
        path: Path,
        *,
        if_exists: IfExists = "refuse",
        manifest: Manifest | None = None,
    ) -> None:
        """Opens the file; without a manifest, the run cannot be resumed.

        Raises:
            RequestError: If the file exists and is not to be replaced or resumed,
                cannot be written, or holds the results of another run.
        """
        self.num_kept = 0
        self.num_kept_errors = 0
        self._path = path
        self._manifest = manifest
        self._is_new = not path.exists()
        # A file that is to be replaced keeps its content until the first result.
        self._has_begun = False
        self._num_lines = 0
        self._num_bytes = 0
        self._descriptor = _open(path, if_exists)
        self._done = IdIndex()
        try:
            if if_exists == "resume" and os.fstat(self._descriptor).st_size:
                self._read_kept()
        except BaseException:
            self._done.close()
            os.close(self._descriptor)
            raise

    def has(self, custom_id: str) -> bool:
        """Whether the line of this name had its result when the file was opened."""
        return self._done.find(custom_id) is not None

    def add(self, values: dict[str, Any]) -> None:
        """Appends a line of JSON, and returns when it is on disk.

        Raises:
            RequestError: If it cannot be written. Earlier lines stay.
        """
        line = json_text(values, ensure_ascii=False).encode() + b"\n"
        try:
            if not self._has_begun:
                self._begin()
            _write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as reason:
            # A later run would drop half a line, but there need not be one.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._num_bytes)
            kept = f"{self._num_lines} results are kept there"
            then = "" if self._manifest is None else ", then go on with --resume"
            msg = f"results {self._path}: the result of {values['custom_id']!r} cannot be written ({reason.strerror or reason}): {kept}; make room{then}"
            raise RequestError(msg) from reason
        self._num_bytes += len(line)
        self._num_lines += 1

    def add_strategy(self, fingerprint: str) -> None:
        """Adds a strategy that serves the run to the manifest; `--resume` accepts it then.

        Raises:
            RequestError: If the manifest cannot be written.
        """
        if self._manifest is None or fingerprint in self._manifest.strategies:
            return
        strategies = (*self._manifest.strategies, fingerprint)
        self._manifest = replace(self._manifest, strategies=strategies)
        # Before the first result, the manifest on disk may be of another run.
        if not self._has_begun:
            return
        path = manifest_path(self._path)
        try:
            write_manifest(path, self._manifest)
            _sync_folder(path.parent)
        except OSError as reason:
            msg = f"manifest {path}: another strategy cannot be added ({reason.strerror or reason}): make room, then go on with --resume"
            raise RequestError(msg) from reason

    def close(self) -> None:
        """Closes the file."""
        if self._is_new and not self._num_lines:
            self._path.unlink(missing_ok=True)
            if self._manifest is not None:
                manifest_path(self._path).unlink(missing_ok=True)
        self._done.close()
        os.close(self._descriptor)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Starts an empty file and its manifest."""
        # In this order, so that results are never next to the manifest of another run.
        os.ftruncate(self._descriptor, 0)
        if self._manifest is not None:
            write_manifest(manifest_path(self._path), self._manifest)
        _sync_folder(self._path.parent)
        self._has_begun = True

    def _read_kept(self) -> None:
        """Reads the complete lines and cuts off what follows them."""
        if self._manifest is not None:
            self._manifest = check_manifest(manifest_path(self._path), self._manifest)
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self._add_kept(line, number)
                self._num_bytes += len(line)
                self._num_lines += 1
        os.ftruncate(self._descriptor, self._num_bytes)
        self.num_kept = self._num_lines
        self._has_begun = True

    def _add_kept(self, line: bytes, number: int) -> None:
        try:
            values = json.loads(line)
            custom_id = values["custom_id"]
        except (ValueError, TypeError, KeyError, RecursionError):
            values, custom_id = {}, None
        where = f"results {self._path} line {number}"
        if not isinstance(custom_id, str):
            msg = f"{where}: is no result: expected JSON with a custom_id; remove the line, and its prompt is served again"
            raise RequestError(msg)
        first = self._done.add(custom_id, number)
        if first is not None:
            msg = f"{where}: is the result of {custom_id!r}, as line {first} is: expected one of each; remove one of them"
            raise RequestError(msg)
        self.num_kept_errors += values.get("error") is not None


def _open(path: Path, if_exists: IfExists) -> int:
    """Opens a file and locks it for this process, for as long as that runs."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if if_exists == "refuse":
        flags |= os.O_EXCL
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o644)
    except FileExistsError as reason:
        msg = f"results {path}: is there already: name another file, or say --resume to go on with it or --overwrite"
        raise RequestError(msg) from reason
    except OSError as reason:
        msg = f"results {path}: cannot be written ({reason.strerror or reason}): name another file"
        raise RequestError(msg) from reason
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            msg = f"results {path}: is no regular file: name another one"
            raise RequestError(msg)
        try:
            # The lock ends with the process, however that ends.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as reason:
            msg = f"results {path}: another process is writing it: wait for its end, or name another file"
            raise RequestError(msg) from reason
        except OSError as reason:
            msg = f"results {path}: cannot be locked ({reason.strerror or reason}): name a file in a folder where it can"
            raise RequestError(msg) from reason
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, content: bytes) -> None:
    """Writes all bytes; a single call may write only some, as on a full disk."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    """Syncs a folder, so that new files survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
