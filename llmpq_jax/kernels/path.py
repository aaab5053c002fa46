"""Names the kernels that serve a device; measurements record the name."""

from __future__ import annotations

import re
from typing import Any

from llmpq_jax.kernels.native import native_path

# XLA and Pallas lower to Triton from this compute capability on, and bfloat16 is native.
_MIN_FOR_TRITON = (8, 0)


def kernel_path(platform: str, capability: str = "") -> str:
    """Returns the name of the kernels that serve a backend.

    On a CPU it is "native-" and one of `native.KERNELS`, if there is a library; on an
    NVIDIA GPU "pallas-sm80" from compute capability 8.0 on, the digits being its own,
    and "xla-sm70" below; anywhere else "xla".

    Raises:
        LlmpqError: The environment asks for kernels that this processor cannot run.
    """
    if platform == "cpu":
        served = native_path()
        return "xla" if served is None else f"native-{served}"
    found = re.fullmatch(r"(\d+)\.(\d+)", capability)
    if platform not in ("gpu", "cuda") or found is None:
        return "xla"
    major, minor = int(found[1]), int(found[2])
    family = "pallas" if (major, minor) >= _MIN_FOR_TRITON else "xla"
    return f"{family}-sm{major}{minor}"


def device_kernel_path(device: Any) -> str:
    """Returns the name of the kernels that serve a JAX device, see `kernel_path`."""
    # Only GPUs have the attribute; AMD's is a name such as "gfx90a".
    capability = getattr(device, "compute_capability", "")
    return kernel_path(device.platform, str(capability))
