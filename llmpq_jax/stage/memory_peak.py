"""Peak memory of a stage, as its devices or the compiler report it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmpq_jax.stage.emulated_devices import JaxDevice

PeakSource = Literal["device", "compiler"]
_COUNTED = "peak_bytes_in_use"  # of a device's own statistics, if it has them


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

    @classmethod
    def of(cls, devices: Iterable[JaxDevice], **parts: int) -> StagePeak:
        """Returns the peak that devices count, or the sum of parts if they do not."""
        stats = [device.memory_stats() or {} for device in devices]
        counted = [each[_COUNTED] for each in stats if each.get(_COUNTED) is not None]
        if counted:
            return cls(peak_bytes=max(counted), source="device", **parts)
        return cls(peak_bytes=sum(parts.values()), source="compiler", **parts)


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
