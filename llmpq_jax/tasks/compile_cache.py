"""Keeps what XLA compiles, so that the next start of the same stages is quick."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from llmpq_jax.kernels import kernel_path

_MAX_BYTES = 2 << 30


def keep_compiled(cache_home: Path) -> Path | None:
    """Has JAX keep executables under a folder, unless its user chose where to.

    They lie apart for each processor and version of JAX: code for one may not run on
    another. Those used longest ago are deleted beyond 2 GiB.

    Args:
        cache_home: Folder for caches of all programs.

    Returns:
        Where they are kept; None where JAX was told otherwise, or nothing can be
        written there.
    """
    is_told = jax.config.values["jax_compilation_cache_dir"] is not None
    if is_told or not jax.config.values["jax_enable_compilation_cache"]:
        return None
    folder = cache_home / "llmpq-jax" / "compiled" / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    # With a limit JAX locks the folder: programs that run at once do not read what
    # another has half written.
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def _machine() -> str:
    """Names the processor's abilities and JAX's version in a few letters."""
    told = [platform.machine(), platform.processor(), kernel_path("cpu")]
    told.append(jax.__version__)
    processor = Path("/proc/cpuinfo")
    if processor.is_file():
        lines = processor.read_text(errors="replace").splitlines()
        told += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
