"""Where tests keep what XLA compiles, for other processes, later modules and later runs.

Laws compile the same small programs again and again. Two processes that share a folder
may read what the other has half written, and a lock makes JAX scan the folder at every
write; so each process works in a folder of its own, and exchanges what is in it with what
is kept, before its first module and after each. Code compiled for another processor may
not run here, so what is kept is named by the processor's features and by XLA's version.
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


def exchange(folder: Path, kept: Path) -> None:
    """Links what is kept into a process's own folder, and what it compiled to that."""
    kept.mkdir(parents=True, exist_ok=True)
    own, others = ({path.name for path in each.iterdir()} for each in (folder, kept))
    ways = ((folder, kept, own - others), (kept, folder, others - own))
    for source, target, names in ways:
        for name in names:
            with suppress(OSError):  # there or gone meanwhile, or another file system
                os.link(source / name, target / name)


def drop_oldest(kept: Path) -> None:
    """Deletes the oldest of what is kept, where that is too much."""
    with suppress(OSError):  # another process may be at it
        files = sorted(kept.iterdir(), key=lambda path: -path.stat().st_mtime)
        size = 0
        for path in files:
            size += path.stat().st_size
            if size > _MAX_KEPT_BYTES:
                path.unlink(missing_ok=True)
