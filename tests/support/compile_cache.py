"""Where tests keep what XLA compiles, for later modules and later runs.

Laws compile the same small programs again and again. Two processes that share a folder
may read what the other has half written, and a lock makes JAX scan the folder at every
write; so each process works in a folder of its own, begins with what earlier runs kept,
and adds its own to that when it ends. Code compiled for another processor may not run
here, so what is kept is named by the processor's features and by XLA's version.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build"
_MAX_KEPT_BYTES = 2 << 30


def kept_folder() -> Path:
    """Folder of what earlier runs compiled for this processor; perhaps not there yet."""
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    flags = {line for line in text.splitlines() if line.startswith(("flags", "Feat"))}
    key = "\n".join([version("jaxlib"), *sorted(flags)])
    return BUILD / f"compiled-for-tests-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def begin_with_kept(folder: Path, kept: Path) -> None:
    """Links what is kept into a process's own folder."""
    for path in kept.glob("*") if kept.is_dir() else ():
        with suppress(OSError):  # another file system, or removed meanwhile
            os.link(path, folder / path.name)


def keep(folder: Path, kept: Path) -> None:
    """Links what a process compiled to what is kept, and drops the oldest of too much."""
    with suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            with suppress(FileExistsError):
                os.link(path, kept / path.name)
        files = sorted(kept.iterdir(), key=lambda path: -path.stat().st_mtime)
        size = 0
        for path in files:
            size += path.stat().st_size
            if size > _MAX_KEPT_BYTES:
                path.unlink(missing_ok=True)
