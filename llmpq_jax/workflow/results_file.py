"""Results as JSON lines: one for each request, appended as it is finished."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from llmpq_jax.errors import RequestError


class ResultsFile:
    """A file of results that is open for appending.

    Every line is flushed: what is finished is never lost, and a reader may follow. A
    run that fails before its first result leaves no new file, and the old one as it was.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        """Makes the file.

        Raises:
            RequestError: It is there already, or cannot be made.
        """
        self._path = path
        self._is_new = not path.exists()
        self._num_lines = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a" if overwrite else "x", encoding="utf-8")
        except FileExistsError as reason:
            msg = f"results {path}: is there already: name another file or say --overwrite"
            raise RequestError(msg) from reason
        except OSError as reason:
            msg = f"results {path}: cannot be written ({reason.strerror or reason}): name another file"
            raise RequestError(msg) from reason

    def add(self, values: dict[str, Any]) -> None:
        """Appends a line of JSON; the first one replaces what an old file held."""
        if self._num_lines == 0:
            self._file.truncate(0)
        line = json.dumps(values, ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()
        self._num_lines += 1

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        if self._is_new and self._num_lines == 0:
            self._path.unlink()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
