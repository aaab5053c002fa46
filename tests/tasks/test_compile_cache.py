"""The cache of executables, tried in separate processes: JAX is configured once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmpq_jax.tasks.compile_cache import CheckedCache

_PROGRAM = """
import sys
from pathlib import Path
import jax
import jax.numpy as jnp
from jax._src import monitoring
from llmpq_jax.tasks.compile_cache import keep_compiled

hits = []
monitoring.register_event_listener(lambda name, **_: hits.append(name))
kept = keep_compiled(Path(sys.argv[1]))
jax.jit(lambda x: jnp.tanh(x) @ x)(jnp.ones((8, 8))).block_until_ready()
print(kept, hits.count("/jax/compilation_cache/cache_hits"))
"""


def _run(home: Path, **variables: str) -> tuple[str, int]:
    environment = {
        name: value for name, value in os.environ.items() if name[:4] != "JAX_"
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(home)],
        env=environment | {"JAX_PLATFORMS": "cpu"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, hits = done.stdout.split()
    return kept, int(hits)


def test_a_second_start_finds_what_the_first_compiled(tmp_path):
    kept, hits = _run(tmp_path)
    assert Path(kept).parent == tmp_path / "llmpq-jax" / "compiled"
    assert hits == 0
    again, hits = _run(tmp_path)
    assert again == kept
    assert hits > 0


def test_a_user_who_chose_a_folder_or_none_is_obeyed(tmp_path):
    chosen = tmp_path / "chosen"
    home = tmp_path / "home"
    assert _run(home, JAX_COMPILATION_CACHE_DIR=str(chosen))[0] == "None"
    assert _run(home, JAX_ENABLE_COMPILATION_CACHE="false")[0] == "None"
    assert not home.exists()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "llmpq-jax").write_text("a file where a folder should be")
    assert _run(tmp_path) == ("None", 0)
    (line,) = _said(tmp_path)
    assert ": cannot be used (Not a directory): programs are compiled at every" in line


def _said(home: Path) -> list[str]:
    """Returns what a start says on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", _PROGRAM, str(home)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "no time"])
def test_damaged_entries_are_reported_once_and_replaced(tmp_path, damage):
    kept, _ = _run(tmp_path)
    entries = sorted(Path(kept).glob("*-cache"))
    assert len(entries) > 1
    for path in entries:
        content = path.read_bytes()
        if damage == "no time":
            path.with_name(path.name.replace("-cache", "-atime")).unlink()
        path.write_bytes(
            {
                "cut": content[:-5],
                "empty": b"",
                "changed": content[:-5] + bytes(5),
                "no time": content[:-1],
            }[damage]
        )
    (line,) = _said(tmp_path)
    assert (
        "holds programs that are not what was written there: they are deleted" in line
    )
    assert _said(tmp_path) == []
    assert _run(tmp_path)[1] == len(entries)


class _BrokenCache:
    """A cache whose folder can be read no more."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> bytes | None:
        raise PermissionError(13, "Permission denied", key)

    def put(self, key: str, value: bytes) -> None:
        raise OSError(30, "Read-only file system", key)


@pytest.mark.parametrize("reason", ["Permission denied", "Read-only file system"])
def test_a_folder_that_becomes_unusable_is_reported_once(tmp_path, reason):
    said: list[str] = []
    cache: Any = _BrokenCache(tmp_path)
    checked = CheckedCache(cache, said.append)
    for _ in range(3):
        if reason == "Permission denied":
            assert checked.get("key") is None
        checked.put("key", b"value")
    (line,) = said
    assert f"compile cache {tmp_path}: cannot be used ({reason}): programs" in line
