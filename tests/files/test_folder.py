from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmpq_jax.errors import RequestError
from llmpq_jax.files import new_folder


def _make(out: Path, *, fails: BaseException | None = None, **choices: Any) -> None:
    chosen: Any = {"replaces": False, "marks": ("mark",), "kept": ()} | choices
    with new_folder(out, what="thing", **chosen) as folder:
        assert folder.parent == out.resolve().parent
        (folder / "mark").write_text("new")
        if fails is not None:
            raise fails


def _tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def old(tmp_path: Path) -> Path:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mark").write_text("old")
    (out / "more").write_text("old")
    return out


def test_a_folder_appears_complete_and_readable_by_all(tmp_path: Path) -> None:
    _make(tmp_path / "a" / "b" / "out")
    assert _tree(tmp_path / "a") == {"b": "", "b/out": "", "b/out/mark": "new"}
    assert (tmp_path / "a/b/out").stat().st_mode & 0o777 == 0o755


def test_an_old_folder_is_replaced_completely(old: Path) -> None:
    _make(old, replaces=True)
    assert _tree(old.parent) == {"out": "", "out/mark": "new"}


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _make(tmp_path / "out", replaces=True)
    assert _tree(tmp_path) == {"out": "", "out/mark": "new"}


def test_the_target_of_a_symbolic_link_is_replaced(old: Path) -> None:
    link = old.parent / "link"
    link.symlink_to(old)
    _make(link, replaces=True)
    assert (old / "mark").read_text() == "new"
    assert link.is_symlink()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()])
def test_a_failure_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        _make(tmp_path / "a" / "out", fails=error)
    assert _tree(tmp_path) == {}


@pytest.mark.parametrize("name", [None, "{folder}/file"])
def test_a_failure_to_write_names_what_was_typed(
    tmp_path: Path, name: str | None
) -> None:
    link = tmp_path / "link"
    link.symlink_to("target")

    def fill(folder: Path) -> None:
        where = () if name is None else (name.format(folder=folder),)
        raise OSError(28, "No space left on device", *where)

    message = (
        rf"^thing {link}: cannot be written \(No space left on device\): make room"
    )
    with pytest.raises(RequestError, match=message):
        _fill(link, fill)
    assert list(tmp_path.iterdir()) == [link]


def test_an_error_names_a_file_of_the_folder_as_typed(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        msg = f"weights {folder}/file: no"
        raise RequestError(msg)

    with pytest.raises(RequestError, match=f"^weights {tmp_path}/out/file: no$"):
        _fill(tmp_path / "out", fill)


def test_a_failure_to_read_stays_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="/elsewhere"):
        _fill(tmp_path / "out", lambda _: (tmp_path / "elsewhere").read_text())


def _fill(out: Path, fill: Callable[[Path], object]) -> None:
    with new_folder(out, what="thing", replaces=False, marks=(), kept=()) as folder:
        fill(folder)


def test_a_failure_leaves_the_old_folder(old: Path) -> None:
    before = _tree(old.parent)
    with pytest.raises(KeyboardInterrupt):
        _make(old, replaces=True, fails=KeyboardInterrupt())
    assert _tree(old.parent) == before


def test_a_failed_rename_restores_the_old_folder(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _tree(old.parent)
    rename = Path.rename

    def rename_old_only(path: Path, target: Path) -> Path:
        # A temporary folder has a dot before its name; the old one has none.
        if path.name.startswith(".out."):
            msg = "disk gone"
            raise OSError(msg)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_old_only)
    with pytest.raises(RequestError, match="disk gone"):
        _make(old, replaces=True)
    assert _tree(old.parent) == before


def test_an_old_folder_is_refused_unless_it_may_be_replaced(old: Path) -> None:
    before = _tree(old.parent)
    with pytest.raises(
        RequestError, match=r"^thing /.*/out: exists already: .* use --overwrite$"
    ):
        _make(old)
    assert _tree(old.parent) == before


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("text")
    with pytest.raises(RequestError, match=r"/out: is a file: expected the name of a"):
        _make(tmp_path / "out", replaces=True)
    assert _tree(tmp_path) == {"out": "text"}


def test_a_folder_that_was_not_made_here_is_never_deleted(old: Path) -> None:
    (old / "mark").unlink()
    with pytest.raises(
        RequestError, match=r"/out: has no mark: expected a folder that"
    ):
        _make(old, replaces=True)
    assert (old / "more").exists()


@pytest.mark.parametrize("inside", ["", "model", "model/strategy.toml"])
def test_what_is_read_is_never_deleted(old: Path, inside: str) -> None:
    with pytest.raises(
        RequestError, match=r"/out: holds /.*, which is read: choose ano"
    ):
        _make(old, replaces=True, kept=(old / inside,))
    assert (old / "mark").read_text() == "old"
    shutil.rmtree(old)
    _make(old, kept=(old / inside,))
