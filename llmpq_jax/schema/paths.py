"""Paths in files: relative paths are relative to the folder of the file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import overload


@overload
def from_file(file: Path, found: str) -> str: ...
@overload
def from_file(file: Path, found: None) -> None: ...
def from_file(file: Path, found: str | None) -> str | None:
    """Returns a path in a file as a path from the working directory."""
    if found is None or Path(found).is_absolute():
        return found
    return os.path.normpath(file.parent / found)


@overload
def to_file(file: Path, path: str) -> str: ...
@overload
def to_file(file: Path, path: None) -> None: ...
def to_file(file: Path, path: str | None) -> str | None:
    """Returns a path as it is written in a file; absolute ones do not change."""
    if path is None or Path(path).is_absolute():
        return path
    return Path(os.path.relpath(path, file.parent)).as_posix()
