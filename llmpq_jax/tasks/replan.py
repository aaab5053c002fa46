"""Solves again on the remaining devices when one has failed for good while a job runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmpq_jax.arch.fingerprint import plan_name, strategy_fingerprint
from llmpq_jax.batch.manifest import plan_path
from llmpq_jax.errors import InfeasibleError, MeasurementError
from llmpq_jax.planner import PlanRequest
from llmpq_jax.planner.pins import with_use
from llmpq_jax.report.console import log
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.schema.record_files import write_strategy
from llmpq_jax.schema.solve_request import SolveRequest
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.online_search import searcher
from llmpq_jax.tasks.planning_request import measurements_digest
from llmpq_jax.tasks.recorded_request import recorded_request
from llmpq_jax.tasks.solve import with_origin

_THEN = "bring a device back, then run this command again (`generate` with --resume)"


class Replanner:
    """Solves a problem again, each time without the devices that have failed so far."""

    def __init__(
        self,
        problem: PlanRequest,
        request: SolveRequest,
        *,
        command: str,
        on_plan: Callable[[Strategy], None],
    ) -> None:
        """Starts with all devices; `on_plan` is called before a plan runs."""
        self._problem = problem
        self._request = request
        self._command = command
        # Read now: a job of hours must not end because a file has been removed.
        self._digest = measurements_digest(request.sources, problem.cluster)
        self._search = searcher(request)
        self._on_plan = on_plan
        self._failed: frozenset[str] = frozenset()

    def __call__(self, failure: DeviceFailedError) -> Strategy:
        """Returns the best plan on the remaining devices.

        Raises:
            InfeasibleError: There is no such plan.
            TimeLimitError: None was found in time.
        """
        # A node that left may come back; a device that failed on a node that is
        # there is not tried again.
        self._failed |= set(failure.devices)
        log(f"{failure.what}: solving again without it")
        problem = without(self._problem, devices=self._failed, nodes=failure.nodes)
        strategy = with_origin(
            self._search(problem),
            _without_idle(self._request, problem),
            command=self._command,
            cluster=problem.cluster.name,
            measurements=self._digest,
        )
        self._on_plan(strategy)
        return strategy


def make_replanner(
    path: Path,
    strategy: Strategy,
    *,
    sources: Mapping[str, Any],
    read_problem: Callable[[SolveRequest], PlanRequest],
    command: str,
    out: Path,
    on_strategy: Callable[[str], None] = lambda _: None,
) -> Replanner:
    """Returns what solves again as a strategy was solved, its choices and limits kept.

    All files are read now: a job of hours must not end because one is missing. New
    plans are written next to the file `out`, and `on_strategy` is called with the
    fingerprint of each.

    Raises:
        LlmpqError: The strategy does not say how it was solved, or a file cannot be
            read, has changed, or is of another model.
    """
    request = recorded_request(path, strategy, sources=sources)
    measurements = request.sources.measurements
    if (
        measurements is not None
        and "measurements" not in sources
        and strategy.provenance is not None
        and measurements_digest(request.sources) != strategy.provenance.measurements
    ):
        msg = f"measurements {measurements}: are not those that the strategy was solved with: expected them unchanged; name these or others by --measurements"
        raise MeasurementError(msg)
    if strategy.request is not None and strategy.request.quality.is_measured:
        # The budget that kept the limit when it was measured; it is not measured again.
        budget = strategy.quality.budget if strategy.quality is not None else None
        request = replace(request, quality=request.quality.with_budget(budget))

    def on_plan(found: Strategy) -> None:
        fingerprint = strategy_fingerprint(found)
        path = plan_path(out, fingerprint)
        write_strategy(path, found)
        on_strategy(fingerprint)
        log(f"continuing with the plan {plan_name(fingerprint)}, written to {path}")

    return Replanner(read_problem(request), request, command=command, on_plan=on_plan)


def without(
    problem: PlanRequest, *, devices: frozenset[str], nodes: tuple[str, ...]
) -> PlanRequest:
    """Returns a problem without these devices and those of nodes that do not answer.

    Raises:
        InfeasibleError: No device remains, or a pinned one does not.
    """
    cluster = problem.cluster
    failed = [
        node_device.name
        for node_device in cluster.node_devices
        if node_device.name in devices or node_device.node.name not in nodes
    ]
    if len(failed) == len(cluster.node_devices):
        msg = f"no device of the cluster {cluster.name!r} is left (nodes that answer: {', '.join(nodes) or 'none'}): {_THEN}"
        raise InfeasibleError(msg)
    try:
        never = with_use(cluster, dict.fromkeys(failed, "never"))
        return replace(problem, cluster=never)
    except ValueError as reason:
        msg = f"no plan is left without {', '.join(failed)}: {reason}; {_THEN}"
        raise InfeasibleError(msg) from reason


def _without_idle(request: SolveRequest, problem: PlanRequest) -> SolveRequest:
    """Returns a request that leaves the devices idle that a problem leaves idle."""
    idle = tuple(
        node_device.name
        for node_device in problem.cluster.node_devices
        if node_device.device.use == "never"
    )
    choices = request.choices
    use = tuple(name for name in choices.use if name not in idle)
    return replace(request, choices=replace(choices, use=use, leave_idle=idle))
