"""Files and folders that are written completely or not at all, and their JSON."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from llmpq_jax.errors import LlmpqError, RequestError


@contextmanager
def reading(
    path: Path, what: str, expected: str, error: type[LlmpqError]
) -> Iterator[None]:
    """Turns a body's failures to read a file, or to decode its text, into an `error`.

    Its message names the kind of file, `what`, and what was expected instead.
    """
    try:
        yield
    except OSError as reason:
        msg = f"{what} {path}: cannot be read ({reason.strerror or reason}): expected {expected}"
        raise error(msg) from reason
    except UnicodeDecodeError as reason:
        msg = f"{what} {path}: is not UTF-8 text (byte {reason.start}): expected {expected}"
        raise error(msg) from reason


def json_text(
    value: Any, *, indent: int | None = None, ensure_ascii: bool = True
) -> str:
    """Returns a value as JSON. Numbers that are not finite, which it lacks, become null."""
    dump = partial(
        json.dumps, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False
    )
    try:
        return dump(value)
    except ValueError:
        return dump(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and renames it when it is complete."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a binary file as `write_text` writes a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(
    out: Path, *, what: str, replaces: bool, marks: Sequence[str], kept: Sequence[Path]
) -> Iterator[Path]:
    """Makes a folder under a temporary name and renames it when it is complete.

    If the body raises, the new folder is deleted and an old one stays as it was.

    Args:
        out: Path of the new folder.
        what: Name of the kind of folder, for messages.
        replaces: True to replace an old folder, if it has all `marks`.
        marks: Files that an old folder must hold to be replaced, unless it is empty, so
            that only folders that were made here are deleted.
        kept: Files and folders that must not be deleted with an old folder.

    Yields:
        Temporary path of the folder, to fill.

    Raises:
        RequestError: If there is a file of this name, or a folder that is not replaced.
    """
    out = out.resolve()
    _check_free(out, what=what, replaces=replaces, marks=marks, kept=kept)
    made = [each for each in (out.parent, *out.parent.parents) if not each.exists()]
    aside: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        yield aside
        aside.chmod(0o755)
        _rename(aside, out)
    except BaseException:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _check_free(
    out: Path, *, what: str, replaces: bool, marks: Sequence[str], kept: Sequence[Path]
) -> None:
    if out.is_dir():
        if not replaces:
            msg = f"{what} {out}: exists already: choose another folder or use --overwrite"
            raise RequestError(msg)
        for path in kept:
            if path.resolve().is_relative_to(out):
                msg = (
                    f"{what} {out}: holds {path}, which is read: choose another folder"
                )
                raise RequestError(msg)
        missing = [mark for mark in marks if not (out / mark).is_file()]
        if missing and any(out.iterdir()):
            msg = f"{what} {out}: has no {missing[0]}: expected a folder that this command wrote, or an empty one, to replace; choose another folder"
            raise RequestError(msg)
    elif out.exists():
        msg = f"{what} {out}: is a file: expected the name of a folder"
        raise RequestError(msg)


def _rename(aside: Path, out: Path) -> None:
    if not out.exists():
        aside.rename(out)
        return
    # A folder that is not empty cannot be replaced by a rename.
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.")) / out.name
    try:
        out.rename(old)
        aside.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        # Unless both renames failed, `out` is now the old folder or its successor.
        if out.exists():
            shutil.rmtree(old.parent, ignore_errors=True)
