"""Results as JSON lines: one for each line of prompts, safe on disk as it is finished.

A file of results is the whole truth of a job: what has a line there is done. It survives
the end of its writer at any moment: a line that was cut short is not believed, and
`resume` goes on behind the last whole one.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.batch.manifest import Job, check_same_job, job_path, write_job
from llmpq_jax.errors import RequestError

# What is done about a file that is there already.
IfThere = Literal["refuse", "replace", "resume"]


class ResultsFile:
    """A file of results that is open for appending, by one process at a time.

    A run that fails before its first result leaves no new file, and an old one as it
    was.

    Attributes:
        num_kept: Results that were there already.
        num_kept_errors: Of bad lines among them.
    """

    def __init__(
        self, path: Path, *, if_there: IfThere = "refuse", job: Job | None = None
    ) -> None:
        """Opens the file.

        Args:
            path: Of the file.
            if_there: What is done about an old one.
            job: What the results come from, to be written beside them; without it a
                run cannot be resumed.

        Raises:
            RequestError: It is there already, cannot be written, or holds the results
                of another job.
        """
        self.num_kept = 0
        self.num_kept_errors = 0
        self._path = path
        self._job = job
        self._is_new = not path.exists()
        # An old file that is to be replaced keeps what it holds until then.
        self._has_begun = False
        self._num_lines = 0
        self._num_bytes = 0
        self._descriptor = _open(path, if_there)
        self._done = IdIndex()
        try:
            if if_there == "resume" and os.fstat(self._descriptor).st_size:
                self._find_place()
        except BaseException:
            self._done.close()
            os.close(self._descriptor)
            raise

    def has(self, custom_id: str) -> bool:
        """Whether the line of this name was done when the file was opened."""
        return self._done.find(custom_id) is not None

    def add(self, values: dict[str, Any]) -> None:
        """Appends a line of JSON, and returns when it is on disk.

        Raises:
            RequestError: It cannot be written. What was written before stays.
        """
        line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        try:
            if not self._has_begun:
                self._begin()
            _write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError as reason:
            # Half a line would not be believed, but there need not be one.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._num_bytes)
            kept = f"{self._num_lines} results are kept there"
            then = "" if self._job is None else ", then go on with --resume"
            msg = f"results {self._path}: the result of {values['custom_id']!r} cannot be written ({reason.strerror or reason}): {kept}; make room{then}"
            raise RequestError(msg) from reason
        self._num_bytes += len(line)
        self._num_lines += 1

    def add_strategy(self, fingerprint: str) -> None:
        """Tells the job of another strategy that serves it; `--resume` takes it then.

        Raises:
            RequestError: That cannot be written.
        """
        if self._job is None or fingerprint in self._job.strategies:
            return
        strategies = (*self._job.strategies, fingerprint)
        self._job = replace(self._job, strategies=strategies)
        # Before the first result there may be the job of another one.
        if not self._has_begun:
            return
        path = job_path(self._path)
        try:
            write_job(path, self._job)
            _sync_folder(path.parent)
        except OSError as reason:
            msg = f"job {path}: another strategy that serves it cannot be noted ({reason.strerror or reason}): make room, then go on with --resume"
            raise RequestError(msg) from reason

    def close(self) -> None:
        """Closes the file."""
        if self._is_new and not self._num_lines:
            self._path.unlink(missing_ok=True)
            if self._job is not None:
                job_path(self._path).unlink(missing_ok=True)
        self._done.close()
        os.close(self._descriptor)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Makes an empty file of this job's."""
        # In this order, so that no results ever lie beside the description of another
        # job.
        os.ftruncate(self._descriptor, 0)
        if self._job is not None:
            write_job(job_path(self._path), self._job)
        _sync_folder(self._path.parent)
        self._has_begun = True

    def _find_place(self) -> None:
        """Reads what is done; what was cut short behind it is removed."""
        if self._job is not None:
            self._job = check_same_job(job_path(self._path), self._job)
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self._believe(line, number)
                self._num_bytes += len(line)
                self._num_lines += 1
        os.ftruncate(self._descriptor, self._num_bytes)
        self.num_kept = self._num_lines
        self._has_begun = True

    def _believe(self, line: bytes, number: int) -> None:
        try:
            values = json.loads(line)
            custom_id = values["custom_id"]
        except (ValueError, TypeError, KeyError, RecursionError):
            values, custom_id = {}, None
        where = f"results {self._path} line {number}"
        if not isinstance(custom_id, str):
            msg = f"{where}: is no result: expected JSON with a custom_id; remove the line, and what it was the result of is served again"
            raise RequestError(msg)
        first = self._done.add(custom_id, number)
        if first is not None:
            msg = f"{where}: is the result of {custom_id!r}, as line {first} is: expected one of each; remove one of them"
            raise RequestError(msg)
        self.num_kept_errors += values.get("error") is not None


def _open(path: Path, if_there: IfThere) -> int:
    """Opens a file for this process alone, for as long as it lives."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if if_there == "refuse":
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
            # The lock goes with the process, however that ends.
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
    """Writes all of it; a full disk may take a part first."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _sync_folder(folder: Path) -> None:
    """Makes sure that the names of new files outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
