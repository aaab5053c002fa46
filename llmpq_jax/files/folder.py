"""Folders that are written completely or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from llmpq_jax.errors import LlmpqError, RequestError
from llmpq_jax.files.outputs import name_aside, writing
from llmpq_jax.interrupts import not_ending, undone_at_end


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
        RequestError: If there is a file of this name, a folder that is not replaced, or
            no room.
    """
    typed, out = out, out.resolve()
    _check_free(out, what=what, replaces=replaces, marks=marks, kept=kept)
    made = [each for each in (out.parent, *out.parent.parents) if not each.exists()]
    aside = name_aside(out)
    remove = partial(_remove, aside, made)
    with undone_at_end(remove):
        try:
            with writing(typed, what):
                out.parent.mkdir(parents=True, exist_ok=True)
                aside.mkdir()
            with _named_as_typed(typed, aside, what):
                yield aside
                aside.chmod(0o755)
                _rename(aside, out)
        except BaseException:
            remove()
            raise


def _remove(aside: Path, made: Sequence[Path]) -> None:
    """Removes an unfinished folder, and the folders that were made to hold it."""
    shutil.rmtree(aside, ignore_errors=True)
    for parent in made:
        with suppress(OSError):
            parent.rmdir()


@contextmanager
def _named_as_typed(typed: Path, aside: Path, what: str) -> Iterator[None]:
    """Has errors name the folder that the user typed instead of the temporary one."""
    try:
        yield
    except LlmpqError as reason:
        reason.args = (str(reason).replace(str(aside), str(typed)),)
        raise
    except OSError as reason:
        named = [str(each) for each in (reason.filename, reason.filename2) if each]
        if named and not any(each.startswith(str(aside)) for each in named):
            raise
        with writing(typed, what):
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
    holder = name_aside(out)
    old = holder / out.name

    def drop_old() -> None:
        # Unless both renames failed, `out` is now the old folder or its successor.
        if out.exists():
            shutil.rmtree(holder, ignore_errors=True)

    with undone_at_end(drop_old):
        holder.mkdir()
        try:
            with not_ending():
                out.rename(old)
                aside.rename(out)
        except BaseException:
            if old.exists() and not out.exists():
                old.rename(out)
            raise
        finally:
            drop_old()
