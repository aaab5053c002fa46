"""How many devices of each group are used, as states of a dynamic program."""

from __future__ import annotations

import numpy as np

from llmpq_jax.planner.instance.device_symmetry import DeviceTypes
from llmpq_jax.planner.instance.instance import Integers


class States:
    """How many devices of each group are used, as one number in mixed radix.

    Attributes:
        num_states: Number of states N.
        digits: Used devices of each group, [N, G].
        steps: Number that one more stage on a type adds, [T].
        is_complete: Whether every group that must be used is, [N].
        depths: States by how many devices they use: `depths[s]` use s.
    """

    def __init__(self, types: DeviceTypes, max_stages: int) -> None:
        sizes = types.group_sizes
        self._types = types
        self.num_states = int(np.prod(sizes + 1))
        self.digits = np.stack(
            np.unravel_index(np.arange(self.num_states), sizes + 1)
        ).T
        radix = np.array([int(np.prod(sizes[q + 1 :] + 1)) for q in range(len(sizes))])
        self.steps = types.widths * radix[types.group_of]
        self.is_complete = ((self.digits == sizes) | ~types.must_use).all(axis=1)
        totals = self.digits.sum(axis=1)
        deepest = min(max_stages * int(types.widths.max()), int(sizes.sum()))
        self.depths = [np.flatnonzero(totals == s) for s in range(deepest + 1)]

    def ending_on(self, depth: int, t: int) -> Integers:
        """Returns the states at a depth whose last stage may be on type t."""
        states = self.depths[depth]
        return states[
            self.digits[states, self._types.group_of[t]] >= self._types.widths[t]
        ]
