"""Paths that stand in files: relative ones are meant from the file's own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import overload


@overload
def from_file(file: Path, found: str) -> str: ...
@overload
def from_file(file: Path, found: None) -> None: ...
def from_file(file: Path, found: str | None) -> str | None:
    """Returns a path that a file names, as seen from where we are."""
    if found is None or Path(found).is_absolute():
        return found
    return os.path.normpath(file.parent / found)


@overload
def to_file(file: Path, path: str) -> str: ...
@overload
def to_file(file: Path, path: None) -> None: ...
def to_file(file: Path, path: str | None) -> str | None:
    """Returns a path as a file should name it; absolute ones stay."""
    if path is None or Path(path).is_absolute():
        return path
    return Path(os.path.relpath(path, file.parent)).as_posix()
