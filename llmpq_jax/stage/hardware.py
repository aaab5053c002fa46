"""Names of the hardware that a stage runs on, as measurements record them."""

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
    """A device with its software; fields as in `schema.measurements.MeasuredKind`.

    Attributes:
        device: JAX's name of the device; for a CPU its model and number of cores.
        driver: Version of the driver and the compiler, as JAX reports it.
        jax_version: JAX version of the process.
        kernel_path: Kernels that multiply by weights on the device.
    """

    device: str
    driver: str
    jax_version: str
    kernel_path: str


def machine_of(device: JaxDevice) -> Machine:
    """Returns a device with the software that serves it in this process."""
    return Machine(
        device=processor_name() if device.platform == "cpu" else device.device_kind,
        driver=driver_version(device),
        jax_version=jax.__version__,
        kernel_path=device_kernel_path(device),
    )


def processor_name() -> str:
    """Returns the processor's model, and the number of cores of this process."""
    return f"{processor_model()}, {num_cores()} cores"


def processor_model() -> str:
    """Returns the processor's model."""
    match = _CPU_MODEL.search(_text("/proc/cpuinfo"))
    return match[1].split("@")[0].strip() if match else platform.machine()


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def driver_version(device: JaxDevice) -> str:
    """Returns the versions of a device's compiler and driver, on one line."""
    version = " ".join(str(device.client.platform_version).split())
    match = _NVIDIA_DRIVER.search(_text("/proc/driver/nvidia/version"))
    return (
        f"{version}, driver {match[1]}"
        if device.platform == "gpu" and match
        else version
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
