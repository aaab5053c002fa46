"""Progress of long work as lines, about one a minute, where there is no terminal."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmpq_jax.units import format_seconds

_PERIOD_S = 60.0
# Rates are those of the last lines: what an earlier run did is counted at once.
_NUM_MARKS = 10


class ProgressLines:
    """Counts work that is done, and says in a line how far it is.

    May be advanced by several threads.
    """

    def __init__(
        self,
        what: str,
        total: float | None,
        *,
        unit: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts at 0; see `console.progress_bar`. `clock` returns seconds."""
        self._what = what
        self._total = total
        self._unit = unit
        self._clock = clock
        self._started_s = clock()
        self._count = 0.0
        self._marks = deque([(self._started_s, 0.0)], maxlen=_NUM_MARKS)
        self._note: str | None = None
        self._lock = threading.Lock()

    def advance(
        self, count: float, total: float | None = None, note: str | None = None
    ) -> None:
        """Adds to the count; sets the total, once it is known, and the note."""
        with self._lock:
            self._count += count
            self._total = self._total if total is None else total
            self._note = self._note if note is None else note

    def line(self) -> str:
        """Returns count, rate and time left: "loading: 3 of 9 layers in 60 s, 0.05/s, …"."""
        now_s = self._clock()
        with self._lock:
            count, total, note = self._count, self._total, self._note
            since_s, count_before = self._marks[0]
            self._marks.append((now_s, count))
        number = f"{count:,.0f}" + ("" if total is None else f" of {total:,.0f}")
        parts = [f"{self._what}: {number} {self._unit}"]
        parts[0] += f" in {format_seconds(now_s - self._started_s)}"
        if count > count_before and now_s > since_s:
            rate = (count - count_before) / (now_s - since_s)
            parts.append(f"{rate:,.0f}/s" if rate >= 1000 else f"{rate:.3g}/s")
            if total is not None and count < total:
                left_s = max(0.0, total - count) / rate
                parts.append(f"about {format_seconds(left_s)} left")
        return ", ".join(parts) + (f"; {note}" if note else "")


@contextmanager
def every_minute(
    action: Callable[[], None], *, period_s: float = _PERIOD_S
) -> Iterator[None]:
    """Calls an action again and again while its body runs, in a thread.

    Work may take minutes from one count to the next, for instance to compile a stage.
    """
    is_done = threading.Event()

    def repeat() -> None:
        while not is_done.wait(period_s):
            action()

    thread = threading.Thread(target=repeat, name="llmpq-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
