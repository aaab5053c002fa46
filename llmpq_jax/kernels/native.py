"""The library of native CPU kernels: found, loaded, and registered with XLA."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import jax

from llmpq_jax.errors import LlmpqError

_LIBRARY = "libllmpq_jax_kernels.so"
_VARIABLE = "LLMPQ_JAX_KERNELS"  # read by native/library.cc
_TARGETS = {
    "llmpq_jax_attend": "LlmpqAttend",
    "llmpq_jax_product": "LlmpqProduct",
    "llmpq_jax_round": "LlmpqRound",
}
KERNELS = ("portable", "avx2", "avx512", "avx512bf16", "amx")  # the slowest first


@cache
def native_path() -> str | None:
    """Returns the name of the kernels for this processor, or None without a library.

    It is one of `KERNELS`. The first call registers them with XLA.

    Raises:
        LlmpqError: The environment asks for kernels that this processor cannot run.
    """
    path = _library_path()
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    library.LlmpqKernelPath.restype = ctypes.c_char_p
    served = library.LlmpqKernelPath()
    if served is None:
        msg = f"environment: {_VARIABLE}={os.environ.get(_VARIABLE, '')} names kernels that are not here: expected one of {', '.join(KERNELS)}, as far as the processor has them; unset it for the fastest"
        raise LlmpqError(msg)
    for target, symbol in _TARGETS.items():
        handler = jax.ffi.pycapsule(getattr(library, symbol))
        jax.ffi.register_ffi_target(target, handler, platform="cpu")
    return served.decode()


def _library_path() -> Path | None:
    installed = Path(__file__).with_name(_LIBRARY)
    if installed.exists():
        return installed
    # An editable install keeps compiled files apart from the sources.
    try:
        found = files("llmpq-jax") or ()
    except PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in found if file.name == _LIBRARY]
    return next((path for path in paths if path.exists()), None)
