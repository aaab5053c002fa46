"""What a stage runs on, by the names that measurements carry."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import jax

from llmpq_jax.kernels import device_kernel_path
from llmpq_jax.stage.emulated_devices import JaxDevice

_CPU_MODEL = re.compile(r"^model name\s*:\s*(.+)$", re.MULTILINE)
_NVIDIA_DRIVER = re.compile(r"Kernel Module[^0-9]*([0-9.]+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """A device and what serves it; fields as in `schema.measurements.MeasuredKind`.

    Attributes:
        device: What JAX calls it; of a CPU its maker's name and cores.
        driver: Of the device and its compiler, as JAX has it.
        jax_version: Of the process.
        kernel_path: Which kernels serve.
    """

    device: str
    driver: str
    jax_version: str
    kernel_path: str


def machine_of(device: JaxDevice) -> Machine:
    """Names a device and what serves it in this process."""
    return Machine(
        device=processor_name() if device.platform == "cpu" else device.device_kind,
        driver=driver_version(device),
        jax_version=jax.__version__,
        kernel_path=device_kernel_path(device),
    )


def processor_name() -> str:
    """Returns the maker's name of the processor, and how many cores serve here."""
    return f"{processor_model()}, {num_cores()} cores"


def processor_model() -> str:
    """Returns the maker's name of the processor alone."""
    match = _CPU_MODEL.search(_text("/proc/cpuinfo"))
    return match[1].split("@")[0].strip() if match else platform.machine()


def num_cores() -> int:
    """Returns how many cores serve this process."""
    return len(os.sched_getaffinity(0))


def driver_version(device: JaxDevice) -> str:
    """Returns what serves a device below JAX, on one line."""
    served = " ".join(str(device.client.platform_version).split())
    match = _NVIDIA_DRIVER.search(_text("/proc/driver/nvidia/version"))
    return (
        f"{served}, driver {match[1]}" if device.platform == "gpu" and match else served
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
