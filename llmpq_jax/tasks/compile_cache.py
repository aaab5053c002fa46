"""Cache of what XLA compiles, so that the next start of the same stages is quick."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import jax

from llmpq_jax.kernels import kernel_path

_MAX_BYTES = 2 << 30


def keep_compiled(cache_home: Path) -> Path | None:
    """Makes JAX keep executables under a folder, unless the user configured another.

    Each processor and version of JAX has a subfolder, since code for one may not run on
    another. Beyond 2 GiB, the executables that were used longest ago are deleted.
    Returns the subfolder; None if JAX is configured otherwise, or the folder is not
    writable.
    """
    is_configured = jax.config.values["jax_compilation_cache_dir"] is not None
    if is_configured or not jax.config.values["jax_enable_compilation_cache"]:
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
    """Returns a short hash of the processor's abilities and JAX's version."""
    parts = [platform.machine(), platform.processor(), kernel_path("cpu")]
    parts.append(jax.__version__)
    processor = Path("/proc/cpuinfo")
    if processor.is_file():
        lines = processor.read_text(errors="replace").splitlines()
        parts += [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
