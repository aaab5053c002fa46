"""A file of results: JSON lines, each on disk before the next is written.

The file is the only record of progress: a prompt with a line there is done. It survives
the end of its writer at any moment: `resume` drops a line that was cut off, and
continues after the last complete one.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from llmpq_jax.batch.id_index import IdIndex
from llmpq_jax.batch.line_file import IfExists, open_lines
from llmpq_jax.batch.manifest import (
    Manifest,
    check_manifest,
    manifest_path,
    write_manifest,
)
from llmpq_jax.errors import RequestError
from llmpq_jax.files import json_text, reading, writing


class ResultsFile:
    """A file of results that is open for appending, by one process at a time.

    A run that fails before its first result leaves no new file, and leaves an old one
    unchanged. A device or a pipe takes results too, but cannot be resumed.

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
        self._file = open_lines(path, if_exists)
        if not self._file.keeps:
            self._manifest = None
        self._done = IdIndex()
        try:
            if if_exists == "resume" and path.stat().st_size:
                self._read_kept()
        except BaseException:
            self._done.close()
            self._file.close(drops=False)
            raise

    def has(self, custom_id: str) -> bool:
        """Whether the line of this name had its result when the file was opened."""
        return self._done.find(custom_id) is not None

    def add(self, values: dict[str, Any]) -> None:
        """Appends a line of JSON, and returns when it is on disk.

        Raises:
            RequestError: If it cannot be written, or something else has removed or
                changed the file. Earlier lines stay.
        """
        line = json_text(values, ensure_ascii=False).encode() + b"\n"
        try:
            if not self._has_begun:
                self._begin()
            self._file.append(line)
        except OSError as reason:
            kept = f"{self._file.num_lines} results are kept there"
            then = "" if self._manifest is None else ", then go on with --resume"
            msg = f"results {self._path}: the result of {values['custom_id']!r} cannot be written ({reason.strerror or reason}): {kept}; make room{then}"
            raise RequestError(msg) from reason

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
        with writing(path, "manifest"):
            write_manifest(path, self._manifest)
            _sync_folder(path.parent)

    def close(self) -> None:
        """Closes the file."""
        drops = self._is_new and not self._file.num_lines
        if drops and self._manifest is not None:
            manifest_path(self._path).unlink(missing_ok=True)
        self._done.close()
        self._file.close(drops=drops)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._has_begun:
                self._file.check()
        finally:
            self.close()

    def _begin(self) -> None:
        """Starts an empty file and its manifest."""
        # In this order, so that results are never next to the manifest of another run.
        self._file.cut(0, 0)
        if self._manifest is not None:
            write_manifest(manifest_path(self._path), self._manifest)
        if self._file.keeps:
            _sync_folder(self._path.parent)
        self._has_begun = True

    def _read_kept(self) -> None:
        """Reads the complete lines and cuts off what follows them."""
        if self._manifest is not None:
            self._manifest = check_manifest(manifest_path(self._path), self._manifest)
        num_bytes = num_lines = 0
        expected = "a file of results that can be read too"
        with (
            reading(self._path, "results", expected, RequestError),
            self._path.open("rb") as file,
        ):
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                self._add_kept(line, number)
                num_bytes, num_lines = num_bytes + len(line), number
        self._file.cut(num_bytes, num_lines)
        self.num_kept = num_lines
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


def _sync_folder(folder: Path) -> None:
    """Syncs a folder, so that new files survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
