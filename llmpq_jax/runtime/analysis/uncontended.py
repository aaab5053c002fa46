"""Estimates how long stages would have taken if their devices shared no processor.

If the devices of a node share its processor, a fraction s of their work is serialised
(`costmodel.pipeline_schedule`). While k devices are busy, each works at the rate
1 / (1 + s·(k − 1)), as in Amdahl's law, so in a time dt a stage does the work of dt times
that rate alone. The planner's bound of a shared machine counts the same work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.stage.compiled import Phase
from llmpq_jax.stage.message import StageEvent

SerialFraction = Callable[[str, Phase], float | None]


def uncontended_seconds(
    strategy: Strategy, events: Sequence[StageEvent], serial_fraction: SerialFraction
) -> list[float]:
    """Returns the seconds that each event would have taken without other devices.

    The fraction that a node's devices serialise in a phase is None if they share
    nothing.
    """
    stages = [
        (stage.devices[0].partition("/")[0], len(stage.devices))
        for stage in strategy.stages
    ]
    by_node: dict[str, list[int]] = defaultdict(list)
    for index, event in enumerate(events):
        if event.ended_s > event.started_s:
            by_node[stages[event.stage][0]].append(index)
    own = [0.0] * len(events)
    for node, indices in by_node.items():
        # At the same instant, ends come before starts.
        changes = sorted(
            change
            for index in indices
            for change in (
                (events[index].started_s, 1, index),
                (events[index].ended_s, 0, index),
            )
        )
        active: set[int] = set()
        since_s = 0.0
        for at_s, starts, index in changes:
            num_busy = sum(stages[events[each].stage][1] for each in active)
            for each in active:
                rate = _rate(
                    serial_fraction(node, events[each].phase),
                    num_busy,
                    is_alone=len(active) == 1,
                )
                own[each] += rate * (at_s - since_s)
            since_s = at_s
            if starts:
                active.add(index)
            else:
                active.discard(index)
    return own


def _rate(serial: float | None, num_busy: int, *, is_alone: bool) -> float:
    """Returns the rate at which each busy device works, as a fraction of its rate alone."""
    if serial is None or is_alone:
        return 1.0
    return 1.0 / (1.0 + serial * (num_busy - 1))
