"""How many devices of each type are used, as states of a dynamic programme."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmpq_jax.solver.instance import Integers


class States:
    """How many devices of each type are used, as one number in mixed radix.

    Attributes:
        num_states: N.
        digits: [N, T].
        steps: [T], what one more device of a type adds to the number.
        is_complete: [N], whether every type that must be used is.
        depths: Numbers by how many devices they use: `depths[s]` uses s.
    """

    def __init__(
        self, sizes: Integers, must_use: npt.NDArray[np.bool_], most: int
    ) -> None:
        self.num_states = int(np.prod(sizes + 1))
        self.digits = np.stack(
            np.unravel_index(np.arange(self.num_states), sizes + 1)
        ).T
        self.steps = np.array(
            [int(np.prod(sizes[t + 1 :] + 1)) for t in range(len(sizes))]
        )
        self.is_complete = ((self.digits == sizes) | ~must_use).all(axis=1)
        totals = self.digits.sum(axis=1)
        deepest = min(most, int(sizes.sum()))
        self.depths = [np.flatnonzero(totals == s) for s in range(deepest + 1)]

    def with_one_of(self, depth: int, t: int) -> Integers:
        """States at a depth that use a device of type t."""
        states = self.depths[depth]
        return states[self.digits[states, t] > 0]
