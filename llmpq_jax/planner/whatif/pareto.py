"""Plans along one line of choices: what latency costs in quality, batch or devices.

Each point is a search of its own with its own gap. Points come in an order in which those
found so far are spread over the whole line, so that an interrupted sweep shows it too.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from llmpq_jax.planner.constraints import LayerPin, with_use
from llmpq_jax.planner.instance.execution_units import interchangeable_groups
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import (
    all_subproblems,
    max_wire_omega,
    uniform_int8_omega,
)
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.result.to_strategy import make_strategy
from llmpq_jax.planner.search.branch_and_bound import search
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.schema.strategy import Strategy

Axis = Literal["quality", "batch", "devices"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepPoint:
    """One plan.

    Attributes:
        setting: The budget for Σω, the batch, or how many devices might be used.
        strategy: The fastest plan found there; absent where none was.
        found: The plan as the search knows it.
        was_interrupted: A person ended its search: it is the best until then.
    """

    setting: float
    strategy: Strategy | None
    found: Incumbent | None = None
    was_interrupted: bool = False

    @property
    def latency_s(self) -> float:
        """Of the plan; infinite without one."""
        if self.strategy is None or self.strategy.predicted is None:
            return float("inf")
        return self.strategy.predicted.latency_s

    @property
    def omega(self) -> float:
        """Σω of the plan; infinite without one."""
        if self.strategy is None or self.strategy.quality is None:
            return float("inf")
        return self.strategy.quality.omega

    @property
    def throughput(self) -> float:
        """New tokens per second; 0 without a plan."""
        if self.strategy is None or self.strategy.predicted is None:
            return 0.0
        return self.strategy.predicted.throughput_tokens_per_s

    @property
    def num_devices(self) -> int:
        """Devices that the plan uses."""
        if self.strategy is None:
            return 0
        return sum(len(stage.devices) for stage in self.strategy.stages)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Solves points of one request.

    Attributes:
        request: What holds at all points.
        time_limit_s: Of each point.
        relative_gap: Of each point.
    """

    request: PlanRequest
    time_limit_s: float
    relative_gap: float

    def points(self, axis: Axis, *, most: int) -> Iterator[SweepPoint]:
        """Yields points as they are solved, at most so many."""
        line = {"quality": self.quality, "batch": self.batch, "devices": self.devices}
        return itertools.islice(line[axis](), most)

    def quality(self) -> Iterator[SweepPoint]:
        """Budgets from the least Σω that fits to that of the fastest plan of all.

        Between two neighbours the middle is solved next where most may be gained: where
        the product of their distances in Σω and in latency is the largest. Where a plan
        needs less than its budget, nothing faster lies between the two.
        """
        everything = 2 * _max_omega(self.request)
        fastest = self._solve(self.request, everything)
        yield fastest
        least = self._min_omega()
        if fastest.strategy is None or least is None or fastest.was_interrupted:
            return
        points = [self._solve(self.request, least), fastest]
        yield points[0]
        while not points[-1].was_interrupted:
            gains = [
                (right.omega - left.setting) * (left.latency_s - right.latency_s)
                if left.latency_s > right.latency_s * (1 + self.relative_gap)
                else 0.0
                for left, right in itertools.pairwise(points)
            ]
            place = max(range(len(gains)), key=lambda i: gains[i])
            left, right = points[place], points[place + 1]
            if gains[place] <= 1e-9 * everything * fastest.latency_s:
                return
            budget = (left.setting + right.omega) / 2
            middle = self._solve(self.request, budget, known=left.found)
            yield middle
            if middle.was_interrupted:
                return
            points.insert(place + 1, middle)

    def batch(self) -> Iterator[SweepPoint]:
        """Powers of two below the request's batch, and it; the ends come first.

        No batch is smaller than a micro-batch that is pinned.
        """
        most = self.request.workload.batch
        least = max(self.request.prefill or 1, self.request.decode or 1)
        powers = (1 << n for n in range(most.bit_length()))
        sizes = [size for size in powers if least <= size < most]
        sizes.append(most)
        budget = self._budget()
        for place in _spread(len(sizes)):
            size = sizes[place]
            workload = replace(self.request.workload, batch=size)
            asked = replace(self.request, workload=workload)
            point = self._solve(asked, budget, setting=size)
            yield point
            if point.was_interrupted:
                return

    def devices(self) -> Iterator[SweepPoint]:
        """As many devices as there are, one fewer, and so on, each the best subset.

        Subsets are told apart by how many devices of each sort they have. What a plan
        found for a subset did not use may be taken away from it without a loss, and a
        device taken away never makes a plan faster: most subsets need no search.
        """
        budget = self._budget()
        kinds = _sorts(self.request)
        sizes = tuple(len(names) for names in kinds)
        known: dict[tuple[int, ...], SweepPoint] = {}

        def bound_s(subset: tuple[int, ...]) -> float:
            return max(
                (
                    _bound_s(point, self.request.theta)
                    for other, point in known.items()
                    if all(a >= b for a, b in zip(other, subset, strict=True))
                ),
                default=0.0,
            )

        for number in range(sum(sizes), 0, -1):
            best = SweepPoint(setting=number, strategy=None)
            subsets = [
                subset
                for subset in itertools.product(*(range(n + 1) for n in sizes))
                if sum(subset) == number
            ]
            for subset in sorted(subsets, key=bound_s):
                if bound_s(subset) >= best.latency_s * (1 - self.relative_gap):
                    break
                point = next(
                    (
                        point
                        for other, point in known.items()
                        if all(a >= b for a, b in zip(other, subset, strict=True))
                        and _is_within(point, kinds, subset)
                    ),
                    None,
                )
                if point is None:
                    asked = _only(self.request, kinds, subset)
                    if asked is None:
                        continue
                    point = self._solve(asked, budget)
                    known[subset] = point
                if point.latency_s < best.latency_s:
                    best = replace(point, setting=number)
                if point.was_interrupted:
                    yield best
                    return
            yield best

    def _budget(self) -> float | None:
        """The same at all points: of a model wholly at 8 bits, if none was asked for."""
        if self.request.omega_budget is not None or self.request.theta > 0:
            return self.request.omega_budget
        return uniform_int8_omega(make_problem(self.request))

    def _min_omega(self) -> float | None:
        subproblems = all_subproblems(make_problem(self.request), omega_budget=None)
        result = search(
            subproblems, time_limit_s=self.time_limit_s, relative_gap=1e-6, goal="omega"
        )
        return None if result.found is None else result.found.value

    def _solve(
        self,
        request: PlanRequest,
        budget: float | None,
        *,
        setting: float | None = None,
        known: Incumbent | None = None,
    ) -> SweepPoint:
        """Solves one point, no worse than a plan that is known to keep its budget."""
        begin = time.monotonic()
        problem = make_problem(request)
        start = []
        if known is not None:
            own = replace(known.instance, omega_budget=budget)
            start.append((own, known.candidate))
        result = search(
            all_subproblems(problem, omega_budget=budget),
            time_limit_s=self.time_limit_s,
            relative_gap=self.relative_gap,
            known=start,
        )
        at = setting if setting is not None else (budget or 0.0)
        if result.found is None:
            return SweepPoint(setting=at, strategy=None)
        seconds = time.monotonic() - begin
        return SweepPoint(
            setting=at,
            strategy=make_strategy(
                problem, result, result.found, budget=budget, note=None, seconds=seconds
            ),
            found=result.found,
            was_interrupted=not result.is_complete
            and result.seconds < self.time_limit_s,
        )


def front(axis: Axis, points: list[SweepPoint]) -> list[SweepPoint]:
    """Returns the points that no other one is as good as in both ways, in order."""
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


def _max_omega(request: PlanRequest) -> float:
    problem = make_problem(request)
    fixed = problem.fixed_omega(min(request.head_bits), min(problem.kv_bits))
    wires = max_wire_omega(problem) if 8 in request.wire_bits else 0.0
    return float(problem.omega.max(axis=1).sum()) + fixed + wires


def _spread(size: int) -> list[int]:
    """All places of a line, its ends first, then middles of what lies between."""
    order, seen = [], set()
    step = 1 << max(size - 1, 1).bit_length()
    while step:
        for place in [*range(0, size, step), *([size - 1] if not order else [])]:
            if place not in seen:
                seen.add(place)
                order.append(place)
        step //= 2
    return order


def _bound_s(point: SweepPoint, theta: float) -> float:
    """Seconds that no plan of fewer devices is below; only θ = 0 bounds them."""
    if point.strategy is None:
        return float("inf")
    assert point.strategy.certificate is not None, "the solver certifies every plan"
    return point.strategy.certificate.bound if theta == 0 else 0.0


def _sorts(request: PlanRequest) -> list[tuple[str, ...]]:
    """Names of the devices that are alike: of one node, one kind, one memory, one pin.

    One that layers are pinned to is like no other.
    """
    alone = {pin.device for pin in request.pins if isinstance(pin, LayerPin)}
    usable = [place for place in request.cluster.node_devices if place.device.use != "never"]
    others = interchangeable_groups(
        place for place in usable if place.name not in alone
    )
    groups = [tuple(place.name for place in group) for group in others]
    return groups + [(place.name,) for place in usable if place.name in alone]


def _is_within(
    point: SweepPoint, kinds: list[tuple[str, ...]], subset: tuple[int, ...]
) -> bool:
    """Whether a plan uses no more devices of any sort than a subset has."""
    if point.strategy is None:
        return True
    used = {name for stage in point.strategy.stages for name in stage.devices}
    return all(
        len(used & set(names)) <= most
        for names, most in zip(kinds, subset, strict=True)
    )


def _only(
    request: PlanRequest, kinds: list[tuple[str, ...]], subset: tuple[int, ...]
) -> PlanRequest | None:
    """With so many devices of each sort; nothing where a pin forbids it."""
    left_out = {
        name for names, most in zip(kinds, subset, strict=True) for name in names[most:]
    }
    needed = {pin.device for pin in request.pins if isinstance(pin, LayerPin)}
    if left_out & needed or any(
        request.cluster.find(name).device.use == "always" for name in left_out
    ):
        return None
    cluster = with_use(request.cluster, dict.fromkeys(left_out, "never"))
    return replace(request, cluster=cluster)
