"""What the caches of free slots still hold, and which prompt begins like one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from llmpq_jax.runtime.decode_group import BatchSlot
from llmpq_jax.schema.buckets import MAX_STEPS_PER_CALL

# Tokens at the start of a free row that decode steps of its group may have overwritten.
_OVERWRITTEN_TOKENS = 16
assert _OVERWRITTEN_TOKENS >= MAX_STEPS_PER_CALL
# A shorter common prefix gains nothing: it is about what is computed again anyway.
_MIN_REUSED_TOKENS = 2 * _OVERWRITTEN_TOKENS
_NOTHING = np.zeros(0, np.int32)


class CachedPrefixes:
    """Free slots, in the order in which they became free, with the tokens in their caches.

    A free row still takes part in the decode steps of its group, which write to its first
    slots. Those tokens are computed again before the others are used.
    """

    def __init__(self, slots: Iterable[BatchSlot]) -> None:
        """Starts with free slots that hold nothing."""
        self._held: dict[BatchSlot, np.ndarray] = {}
        self._overwritten: set[BatchSlot] = set()
        self.clear(slots)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, slot: BatchSlot) -> bool:
        return slot in self._held

    def clear(self, slots: Iterable[BatchSlot]) -> None:
        """Makes these the free slots, which hold nothing."""
        self._held = dict.fromkeys(slots, _NOTHING)
        self._overwritten.clear()

    def add(
        self, slot: BatchSlot, token_ids: Sequence[int], *, is_overwritten: bool = False
    ) -> None:
        """Adds a slot that became free, with the tokens that its cache holds.

        The first of them may be overwritten already.
        """
        self._held[slot] = np.array(token_ids, np.int32)
        if is_overwritten:
            self._overwritten.add(slot)

    def overwrite(self, group: int) -> None:
        """Notes that a decode step of a group writes to its free rows."""
        self._overwritten.update(slot for slot in self._held if slot.group == group)

    def best(
        self, token_ids: Sequence[int], *, reuses: bool = True
    ) -> tuple[BatchSlot, int]:
        """Returns the slot that holds most of a prompt's first tokens, and their number.

        At least one token of the prompt is left, because the next one follows from it. Of
        slots that hold as much, the one in the group with the most free slots is taken, and
        there the one that has been free for longest.
        """
        prompt = np.array(token_ids[:-1] if reuses else (), np.int32)
        num_free = Counter(slot.group for slot in self._held)
        num_held: dict[BatchSlot, int] = {}
        for slot, held in self._held.items():
            common = _num_equal(prompt, held)
            num_held[slot] = common if common >= _MIN_REUSED_TOKENS else 0
        slot = max(num_held, key=lambda each: (num_held[each], num_free[each.group]))
        return slot, num_held[slot]

    def take(self, slot: BatchSlot, num_held: int) -> list[tuple[int, int]]:
        """Removes a slot; returns the ranges of held tokens that are to be computed again."""
        del self._held[slot]
        is_overwritten = slot in self._overwritten and num_held > 0
        self._overwritten.discard(slot)
        return [(0, _OVERWRITTEN_TOKENS)] if is_overwritten else []


def _num_equal(one: np.ndarray, other: np.ndarray) -> int:
    """Returns the length of the longest common prefix."""
    size = min(len(one), len(other))
    different = np.flatnonzero(one[:size] != other[:size])
    return int(different[0]) if len(different) else size
