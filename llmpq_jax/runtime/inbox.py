"""Requests of other threads to a scheduler: sequences to serve, and to cancel."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

from llmpq_jax.runtime.sequence import Sequence


class Inbox:
    """A queue of sequences that other threads fill and one scheduler empties.

    Attributes:
        is_closed: Whether the scheduler is to end once nothing is left to do.
    """

    def __init__(self) -> None:
        """Starts empty and open."""
        self.is_closed = False
        self._changed = threading.Condition()
        self._items: deque[tuple[Sequence, bool]] = deque()

    def add(self, sequence: Sequence) -> None:
        """Adds a sequence that is to be served."""
        self._put(sequence, is_cancelled=False)

    def cancel(self, sequence: Sequence) -> None:
        """Adds a sequence that is to end, in whatever state it is."""
        self._put(sequence, is_cancelled=True)

    def close(self) -> None:
        """Lets the scheduler end once it has served what it has."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    @property
    def is_empty(self) -> bool:
        """Whether everything in it was taken."""
        return not self._items

    def wait(self, timeout_s: float) -> None:
        """Waits until there is something, it is closed, or the time has passed."""
        with self._changed:
            if not self._items and not self.is_closed:
                self._changed.wait(timeout_s)

    def take(self) -> Iterator[tuple[Sequence, bool]]:
        """Yields and removes each sequence in order, with whether it is cancelled."""
        while self._items:
            yield self._items.popleft()

    def _put(self, sequence: Sequence, *, is_cancelled: bool) -> None:
        with self._changed:
            self._items.append((sequence, is_cancelled))
            self._changed.notify_all()
