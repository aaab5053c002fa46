"""Points of a sweep, and which of them no other one beats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.schema.strategy import Prediction, Strategy

Axis = Literal["quality", "batch", "devices"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """The plan of one setting.

    Attributes:
        setting: Budget for Σω, batch, or largest number of devices.
        strategy: The fastest plan found; None if there was none.
        incumbent: The same plan as the search has it.
        ran_out_of_time: Whether the time ended before a plan was found or ruled out.
        was_interrupted: Whether Ctrl-C ended its search, so that it is the best until then.
    """

    setting: float
    strategy: Strategy | None
    incumbent: Incumbent | None = None
    ran_out_of_time: bool = False
    was_interrupted: bool = False

    @property
    def _predicted(self) -> Prediction | None:
        return None if self.strategy is None else self.strategy.predicted

    @property
    def latency_s(self) -> float:
        """Latency of the plan; infinite without one."""
        return self._predicted.latency_s if self._predicted else float("inf")

    @property
    def omega(self) -> float:
        """Σω of the plan; infinite without one."""
        if self.strategy is None or self.strategy.quality is None:
            return float("inf")
        return self.strategy.quality.omega

    @property
    def throughput(self) -> float:
        """New tokens per second; 0 without a plan."""
        return self._predicted.throughput_tokens_per_s if self._predicted else 0.0

    @property
    def num_devices(self) -> int:
        """Devices that the plan uses."""
        stages = () if self.strategy is None else self.strategy.stages
        return sum(len(stage.devices) for stage in stages)


def front(axis: Axis, points: list[SweepPoint]) -> list[SweepPoint]:
    """Returns the points that no other one matches or beats in both values, in order."""
    solved = [point for point in points if point.strategy is not None]

    def costs(point: SweepPoint) -> tuple[float, float]:
        if axis == "quality":
            return point.omega, point.latency_s
        if axis == "batch":
            return point.latency_s, -point.throughput
        return float(point.num_devices), point.latency_s

    best: dict[tuple[float, float], SweepPoint] = {}
    for point in solved:
        best.setdefault(costs(point), point)
    kept = {
        cost: point
        for cost, point in best.items()
        if not any(
            other[0] <= cost[0] and other[1] <= cost[1] and other != cost
            for other in best
        )
    }
    return [kept[cost] for cost in sorted(kept)]
