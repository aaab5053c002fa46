"""Warns before a run that a CPU without native kernels is slow at low precision."""

from __future__ import annotations

from collections.abc import Iterable

from llmpq_jax.kernels import kernel_path
from llmpq_jax.report.console import log
from llmpq_jax.stage.emulated_devices import PLACED_NAME

_NOTE = (
    "note: llmpq-jax was installed without a C++ compiler and so without its native CPU "
    "kernels: on a CPU int8 and int4 are slower than 16 bits; install a compiler, then "
    "llmpq-jax again"
)


def note_missing_kernels(device_names: Iterable[str]) -> None:
    """Writes a note to stderr if a CPU is among the devices and has no kernels."""
    matches = [PLACED_NAME.fullmatch(name) for name in device_names]
    has_cpu = any(match and match["platform"] == "cpu" for match in matches)
    if has_cpu and kernel_path("cpu") == "xla":
        log(_NOTE)
