"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from llmpq_jax.errors import RequestError


def write_text(path: Path, text: str) -> None:
    """Writes a file aside and renames it, so that no reader sees half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file as `write_text` does."""
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
    """Makes a folder beside the one that is wanted, and renames it when it is whole.

    Whatever ends the work early, nothing is left behind, and an old folder stays.

    Args:
        out: The folder that is wanted.
        what: It will be, for messages.
        replaces: An old one, unless it lacks a mark.
        marks: Files that an old one must hold, unless it is empty: what is deleted is
            what was made here.
        kept: Files and folders that must not be deleted with an old one.

    Yields:
        The folder to fill.

    Raises:
        RequestError: There is a file of this name, or a folder that is not replaced.
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
            msg = f"{what} {out}: is there already: name another folder or say --overwrite"
            raise RequestError(msg)
        for path in kept:
            if path.resolve().is_relative_to(out):
                msg = f"{what} {out}: holds {path}, which is read: name another folder"
                raise RequestError(msg)
        missing = [mark for mark in marks if not (out / mark).is_file()]
        if missing and any(out.iterdir()):
            msg = f"{what} {out}: has no {missing[0]}: expected a folder that this command wrote, or an empty one, to replace; name another folder"
            raise RequestError(msg)
    elif out.exists():
        msg = f"{what} {out}: is a file: expected the name of a folder"
        raise RequestError(msg)


def _rename(aside: Path, out: Path) -> None:
    if not out.exists():
        aside.rename(out)
        return
    # A folder that holds something cannot be renamed over.
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.")) / out.name
    try:
        out.rename(old)
        aside.rename(out)
    except BaseException:
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        # Unless all went wrong, the old one is back in its place, or has a successor.
        if out.exists():
            shutil.rmtree(old.parent, ignore_errors=True)
