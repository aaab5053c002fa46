"""What stages would have taken had they not shared a processor.

Where devices of a node share its processor, a share s of their work goes one after the
other (`costmodel.pipeline_schedule`). While k of them are at work, each so gets the share
1 / (1 + s·(k − 1)) of a device, and what a stage did in a while dt is dt times that share:
the work that the planner's bound of a shared machine counts.
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
    """Returns of each event the seconds it would have taken alone.

    Args:
        strategy: Whose stages they are of.
        events: Of one run, in any order.
        serial_fraction: Of the work on a node, by name, in a phase; nothing where its
            devices share nothing.
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
        # What ends at an instant goes before what starts then.
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
                share = _share(
                    serial_fraction(node, events[each].phase),
                    num_busy,
                    is_alone=len(active) == 1,
                )
                own[each] += share * (at_s - since_s)
            since_s = at_s
            if starts:
                active.add(index)
            else:
                active.discard(index)
    return own


def _share(serial: float | None, num_busy: int, *, is_alone: bool) -> float:
    """Of a device that each of the busy ones gets."""
    if serial is None or is_alone:
        return 1.0
    return 1.0 / (1.0 + serial * (num_busy - 1))
