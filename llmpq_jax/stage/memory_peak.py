"""The most bytes that a stage held on one of its devices, and who says so."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmpq_jax.stage.emulated_devices import JaxDevice

PeakSource = Literal["device", "compiler"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePeak:
    """Bytes of a stage at its peak, on the fullest of its devices.

    Attributes:
        peak_bytes: All together.
        source: "device" where the device counts what is allocated on it: its peak since
            the process began, loading and what else runs on it included. "compiler" where
            it does not, as CPUs: the parts below, as if each were at its most at once.
        weights: Of the arrays that are held.
        kv_cache: Of the caches as they were allocated.
        programs: What the hungriest program that ran takes beside weights and caches:
            its inputs, outputs and temporary memory, as the compiler says.
        waiting: Of the micro-batches in the stage's inbox, at most.
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
    """Asks the devices, and falls back on the parts where they do not count."""
    counted = [_counted_bytes(device) for device in devices]
    told = [size for size in counted if size is not None]
    parts = {
        "weights": weights,
        "kv_cache": kv_cache,
        "programs": programs,
        "waiting": waiting,
    }
    if told:
        return StagePeak(peak_bytes=max(told), source="device", **parts)
    return StagePeak(peak_bytes=sum(parts.values()), source="compiler", **parts)


class HighWaterMark:
    """A number of bytes that rises and falls, and how high it was at most.

    What sends to a stage and the stage itself are threads of their own.
    """

    def __init__(self) -> None:
        """Starts at nothing."""
        self._lock = threading.Lock()
        self._now = self._highest = 0

    def add(self, num_bytes: int) -> None:
        """Counts bytes that have come, or have gone where there are fewer than 0."""
        with self._lock:
            self._now += num_bytes
            self._highest = max(self._highest, self._now)

    def reset(self) -> None:
        """Forgets all that was."""
        with self._lock:
            self._now = self._highest = 0

    @property
    def highest(self) -> int:
        """The most bytes since the last reset."""
        return self._highest


def _counted_bytes(device: JaxDevice) -> int | None:
    stats = device.memory_stats()
    return stats.get("peak_bytes_in_use") if stats else None
