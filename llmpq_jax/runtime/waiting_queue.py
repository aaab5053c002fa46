"""The sequences of a batch that wait for a slot."""

from __future__ import annotations

from collections.abc import Iterable

from llmpq_jax.runtime.sequence import Sequence


class WaitingQueue:
    """Sequences in the order in which they get slots; true while there are any.

    They may be more than memory holds: only the next one is read ahead.
    """

    def __init__(self, sequences: Iterable[Sequence]) -> None:
        """Reads the first sequence."""
        self._sequences = iter(sequences)
        self._next = next(self._sequences, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def pop(self) -> Sequence:
        """Removes and returns the next sequence."""
        assert self._next is not None, "no sequence waits"
        popped, self._next = self._next, next(self._sequences, None)
        return popped
