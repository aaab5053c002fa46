"""Sweeps along one axis: what latency costs in quality, batch or devices.

Each point is a search of its own with its own gap. The points solved so far are spread over
the whole axis, so that an interrupted sweep covers it too.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmpq_jax.planner.instance.execution_units import interchangeable_groups
from llmpq_jax.planner.instance.problem import make_problem
from llmpq_jax.planner.instance.subproblems import (
    all_subproblems,
    max_wire_omega,
    uniform_int8_omega,
)
from llmpq_jax.planner.pins import LayerPin, with_use
from llmpq_jax.planner.request import PlanRequest
from llmpq_jax.planner.result.to_strategy import make_strategy
from llmpq_jax.planner.search.branch_and_bound import min_omega, search
from llmpq_jax.planner.search.search_result import Incumbent
from llmpq_jax.planner.whatif.sweep_point import Axis, SweepPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Solves points of one request, each with the same limits."""

    request: PlanRequest
    time_limit_s: float
    relative_gap: float

    def points(self, axis: Axis, *, max_points: int) -> Iterator[SweepPoint]:
        """Yields points as they are solved."""
        along = {"quality": self.quality, "batch": self.batch, "devices": self.devices}
        return itertools.islice(along[axis](), max_points)

    def quality(self) -> Iterator[SweepPoint]:
        """Yields budgets from the least Σω that fits to that of the fastest plan of all.

        Next is the middle of the two neighbours between which most may be gained: those
        with the largest product of their distances in Σω and in latency. Where a plan
        needs less than its budget, no budget between the two is faster.
        """
        no_limit = 2 * _max_omega(self.request)
        fastest = self.solve(self.request, no_limit)
        yield fastest
        subproblems = all_subproblems(make_problem(self.request), omega_budget=None)
        lowest = min_omega(subproblems, time_limit_s=self.time_limit_s).incumbent
        if fastest.strategy is None or lowest is None or fastest.was_interrupted:
            return
        points = [self.solve(self.request, lowest.value), fastest]
        yield points[0]
        while not points[-1].was_interrupted:
            gains = [
                (right.omega - left.setting) * (left.latency_s - right.latency_s)
                if left.latency_s > right.latency_s * (1 + self.relative_gap)
                else 0.0
                for left, right in itertools.pairwise(points)
            ]
            best = max(range(len(gains)), key=lambda i: gains[i])
            left, right = points[best], points[best + 1]
            if gains[best] <= 1e-9 * no_limit * fastest.latency_s:
                return
            budget = (left.setting + right.omega) / 2
            middle = self.solve(self.request, budget, known=left.incumbent)
            yield middle
            if middle.was_interrupted:
                return
            points.insert(best + 1, middle)

    def batch(self) -> Iterator[SweepPoint]:
        """Yields powers of two below the request's batch, and it; the extremes first.

        No batch is smaller than a micro-batch that is pinned.
        """
        largest = self.request.workload.batch
        smallest = max(self.request.prefill or 1, self.request.decode or 1)
        powers = (1 << n for n in range(largest.bit_length()))
        sizes = [size for size in powers if smallest <= size < largest]
        sizes.append(largest)
        budget = self._budget()
        for number in _spread(len(sizes)):
            size = sizes[number]
            workload = replace(self.request.workload, batch=size)
            request = replace(self.request, workload=workload)
            point = self.solve(request, budget, setting=size)
            yield point
            if point.was_interrupted:
                return

    def devices(self) -> Iterator[SweepPoint]:
        """Yields the best plan of all devices, of one fewer, and so on.

        A subset is a number of devices of each group of interchangeable ones. What a plan
        found for a subset did not use may be taken away from it without a loss, and a
        device taken away never makes a plan faster: most subsets need no search.
        """
        budget = self._budget()
        groups = _groups(self.request)
        sizes = tuple(len(names) for names in groups)
        known: dict[tuple[int, ...], SweepPoint] = {}

        def larger(subset: tuple[int, ...]) -> Iterator[SweepPoint]:
            """Yields points of subsets that include this one."""
            for other, point in known.items():
                if all(a >= b for a, b in zip(other, subset, strict=True)):
                    yield point

        def bound_s(subset: tuple[int, ...]) -> float:
            bounds = (_bound_s(p, self.request.theta) for p in larger(subset))
            return max(bounds, default=0.0)

        for number in range(sum(sizes), 0, -1):
            best = SweepPoint(setting=number, strategy=None)
            every = itertools.product(*(range(n + 1) for n in sizes))
            subsets = [subset for subset in every if sum(subset) == number]
            for subset in sorted(subsets, key=bound_s):
                if bound_s(subset) >= best.latency_s * (1 - self.relative_gap):
                    break
                fitting = (p for p in larger(subset) if _is_within(p, groups, subset))
                point = next(fitting, None)
                if point is None:
                    request = _only(self.request, groups, subset)
                    if request is None:
                        continue
                    point = known[subset] = self.solve(request, budget)
                if point.latency_s < best.latency_s:
                    best = replace(point, setting=number)
                elif best.strategy is None and point.ran_out_of_time:
                    best = replace(best, ran_out_of_time=True)
                if point.was_interrupted:
                    yield best
                    return
            yield best

    def _budget(self) -> float | None:
        """Returns the request's budget, or that of a model wholly at 8 bits."""
        if self.request.omega_budget is not None or self.request.theta > 0:
            return self.request.omega_budget
        return uniform_int8_omega(make_problem(self.request))

    def solve(
        self,
        request: PlanRequest,
        budget: float | None,
        *,
        setting: float | None = None,
        known: Incumbent | None = None,
    ) -> SweepPoint:
        """Solves one point, whose setting is the budget by default.

        `known` is a plan that keeps the budget, to start from.
        """
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
        own_setting = setting if setting is not None else (budget or 0.0)
        best = result.incumbent
        if best is None:
            return SweepPoint(
                setting=own_setting,
                strategy=None,
                ran_out_of_time=result.ran_out_of_time,
            )
        seconds = time.monotonic() - begin
        return SweepPoint(
            setting=own_setting,
            strategy=make_strategy(
                problem, result, best, budget=budget, note=None, seconds=seconds
            ),
            incumbent=best,
            was_interrupted=result.was_interrupted,
        )


def _max_omega(request: PlanRequest) -> float:
    problem = make_problem(request)
    fixed = problem.fixed_omega(min(request.head_bits), min(problem.kv_bits))
    wires = max_wire_omega(problem) if 8 in request.wire_bits else 0.0
    return float(problem.omega.max(axis=1).sum()) + fixed + wires


def _spread(size: int) -> list[int]:
    """Returns all indices up to a size, the extremes first, then middles in between."""
    order = [0, size - 1]
    step = 1 << max(size - 1, 1).bit_length()
    while step:
        order += range(0, size, step)
        step //= 2
    return list(dict.fromkeys(order))


def _bound_s(point: SweepPoint, theta: float) -> float:
    """Returns a lower bound on the latency of fewer devices; only θ = 0 gives one."""
    if point.strategy is None:
        return 0.0 if point.ran_out_of_time else float("inf")
    assert point.strategy.certificate is not None, "the planner certifies every plan"
    return point.strategy.certificate.bound if theta == 0 else 0.0


def _groups(request: PlanRequest) -> list[tuple[str, ...]]:
    """Returns names of interchangeable devices; one that layers are pinned to is alone."""
    alone = {pin.device for pin in request.pins if isinstance(pin, LayerPin)}
    usable = [own for own in request.cluster.node_devices if own.device.use != "never"]
    others = interchangeable_groups(each for each in usable if each.name not in alone)
    groups = [tuple(each.name for each in group) for group in others]
    return groups + [(each.name,) for each in usable if each.name in alone]


def _is_within(
    point: SweepPoint, groups: list[tuple[str, ...]], subset: tuple[int, ...]
) -> bool:
    """Whether a plan uses no more devices of any group than a subset has."""
    if point.strategy is None:
        return not point.ran_out_of_time
    used = {name for stage in point.strategy.stages for name in stage.devices}
    numbers = [len(used.intersection(names)) for names in groups]
    return all(own <= number for own, number in zip(numbers, subset, strict=True))


def _only(
    request: PlanRequest, groups: list[tuple[str, ...]], subset: tuple[int, ...]
) -> PlanRequest | None:
    """Returns the request with a subset of the devices, or None if a pin forbids it."""
    parts = zip(groups, subset, strict=True)
    left_out = {name for names, number in parts for name in names[number:]}
    needed = {pin.device for pin in request.pins if isinstance(pin, LayerPin)}
    needed |= {o.name for o in request.cluster.node_devices if o.device.use == "always"}
    if left_out & needed:
        return None
    cluster = with_use(request.cluster, dict.fromkeys(left_out, "never"))
    return replace(request, cluster=cluster)
