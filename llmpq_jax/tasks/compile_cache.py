"""Cache of what XLA compiles, so that the next start of the same stages is quick."""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
from jax._src import compilation_cache
from jax._src.compilation_cache_interface import CacheInterface
from jax._src.lru_cache import LRUCache

from llmpq_jax.errors import RequestError
from llmpq_jax.files import check_folder
from llmpq_jax.kernels import kernel_path
from llmpq_jax.report.console import log

_MAX_BYTES = 2 << 30
# Increase it with every change to what an entry holds.
_FORMAT = 2
_DIGEST_BYTES = hashlib.sha256().digest_size


def keep_compiled(cache_home: Path) -> Path | None:
    """Makes JAX keep executables under a folder, unless the user configured another.

    Each processor and version of JAX has a subfolder, since code for one may not run on
    another. Beyond 2 GiB, the executables that were used longest ago are deleted.
    Returns the subfolder; None if JAX is configured otherwise, or the folder is not
    writable, which is logged.
    """
    is_configured = jax.config.values["jax_compilation_cache_dir"] is not None
    if is_configured or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    folder = cache_home / "llmpq-jax" / "compiled" / _machine()
    try:
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except (RequestError, OSError) as reason:
        log(_unusable(folder, reason))
        return None
    # With a limit JAX locks the folder: programs that run at once do not read what
    # another has half written.
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    _have_entries_checked(folder)
    return folder


class CheckedCache(CacheInterface):
    """JAX's cache, whose entries are compared with their digest when they are read.

    A damaged entry is deleted and counts as missing, so that it is compiled and written
    again; JAX would warn of it at each start and leave it. Where the folder cannot be
    used, the run goes on without.
    """

    def __init__(self, cache: LRUCache, log: Callable[[str], None]) -> None:
        """Takes JAX's cache of the folder; one line is logged of each kind of trouble."""
        self._cache = cache
        # JAX reads it of every cache.
        self._path = cache.path
        self._log = log
        self._lock = threading.Lock()
        self._is_usable = True
        self._found_damage = False

    # The interface says nothing of what is returned.
    def get(self, key: str) -> Any:
        """Returns an entry, or None if it is missing or damaged."""
        entry = self._try(lambda: self._cache.get(key))
        if entry is None:
            return None
        digest, content = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() == digest:
            return content
        self._report_damage()
        self._try(lambda: self._delete(key))
        return None

    def put(self, key: str, value: bytes) -> None:
        """Adds an entry with its digest."""
        if not self._is_usable:
            return
        entry = hashlib.sha256(value).digest() + value
        try:
            self._cache.put(key, entry)
        except FileNotFoundError:
            # The time of the last use is missing of an entry, which JAX takes for granted.
            self._report_damage()
            self._try(self._delete_incomplete)
            self._try(lambda: self._cache.put(key, entry))
        except OSError as reason:
            with suppress(OSError):
                # What was written of it, as on a full disk.
                self._delete(key)
            self._give_up(reason)

    def _try(self, access: Callable[[], bytes | None]) -> bytes | None:
        """Accesses the folder, for the last time if that fails."""
        if not self._is_usable:
            return None
        try:
            return access()
        except OSError as reason:
            self._give_up(reason)
            return None

    def _delete(self, key: str) -> None:
        for ending in ("-cache", "-atime"):
            (self._path / f"{key}{ending}").unlink(missing_ok=True)

    def _delete_incomplete(self) -> None:
        for path in self._path.glob("*-cache"):
            key = path.name.removesuffix("-cache")
            if not (self._path / f"{key}-atime").exists():
                self._delete(key)

    def _report_damage(self) -> None:
        with self._lock:
            is_first, self._found_damage = not self._found_damage, True
        if is_first:
            self._log(
                f"compile cache {self._path}: holds programs that are not what was written there: they are deleted and compiled again"
            )

    def _give_up(self, reason: OSError) -> None:
        with self._lock:
            is_first, self._is_usable = self._is_usable, False
        if is_first:
            self._log(_unusable(self._path, reason))


def _have_entries_checked(folder: Path) -> None:
    """Has JAX use a CheckedCache for a folder; JAX has no public way to choose a cache."""
    get_file_cache = compilation_cache.get_file_cache

    def get_checked_cache(path: str) -> tuple[CacheInterface, str] | None:
        made = get_file_cache(path)
        if made is None or Path(path) != folder or not isinstance(made[0], LRUCache):
            return made
        return CheckedCache(made[0], log), path

    compilation_cache.get_file_cache = get_checked_cache


def _unusable(folder: Path, reason: Exception) -> str:
    why = getattr(reason, "strerror", None) or getattr(
        reason.__cause__, "strerror", None
    )
    return f"compile cache {folder}: cannot be used ({why or reason}): programs are compiled at every start; set XDG_CACHE_HOME to a folder that can be written"


def _machine() -> str:
    """Returns a short hash of the processor's abilities and JAX's version."""
    parts = [platform.machine(), platform.processor(), kernel_path("cpu")]
    parts += [jax.__version__, str(_FORMAT)]
    processor = Path("/proc/cpuinfo")
    if processor.is_file():
        lines = processor.read_text(errors="replace").splitlines()
        parts += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
