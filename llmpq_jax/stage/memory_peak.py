"""Peak memory of a stage, as its devices or the compiler report it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmpq_jax.stage.emulated_devices import JaxDevice

PeakSource = Literal["device", "compiler"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePeak:
    """Peak memory of a stage, in bytes on the fullest of its devices.

    Attributes:
        peak_bytes: Bytes at the peak.
        source: "device" if the device counts its allocations: its peak since the start of
            the process, including loading and other programs. "compiler" if it does not,
            as CPUs: the sum of the parts below, each at its own peak.
        weights: Bytes of the weights.
        kv_cache: Bytes of the allocated caches.
        programs: Working memory of the largest program that ran: its inputs, outputs and
            temporary memory, as the compiler reports them.
        waiting: Peak bytes of the micro-batches in the stage's inbox.
    """

    peak_bytes: int
    source: PeakSource
    weights: int
    kv_cache: int
    programs: int
    waiting: int


def stage_peak(
    devices: Iterable[JaxDevice],
    *,
    weights: int,
    kv_cache: int,
    programs: int,
    waiting: int,
) -> StagePeak:
    """Returns the peak that the devices count, or the sum of the parts if they do not."""
    counted = [
        size for device in devices if (size := _counted_bytes(device)) is not None
    ]
    parts = {
        "weights": weights,
        "kv_cache": kv_cache,
        "programs": programs,
        "waiting": waiting,
    }
    if counted:
        return StagePeak(peak_bytes=max(counted), source="device", **parts)
    return StagePeak(peak_bytes=sum(parts.values()), source="compiler", **parts)


class HighWaterMark:
    """A byte counter that records its maximum; any thread may add to it."""

    def __init__(self) -> None:
        """Starts at 0."""
        self._lock = threading.Lock()
        self._now = self._highest = 0

    def add(self, num_bytes: int) -> None:
        """Adds bytes; a negative number removes them."""
        with self._lock:
            self._now += num_bytes
            self._highest = max(self._highest, self._now)

    def reset(self) -> None:
        """Sets the counter and its maximum to 0."""
        with self._lock:
            self._now = self._highest = 0

    @property
    def highest(self) -> int:
        """Maximum since the last reset, in bytes."""
        return self._highest


def _counted_bytes(device: JaxDevice) -> int | None:
    """Returns a device's own count of its peak, or None if it has none."""
    stats = device.memory_stats()
    return stats.get("peak_bytes_in_use") if stats else None
