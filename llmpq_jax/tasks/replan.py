"""Plans anew, on what is left, when a device is gone for good while a job runs."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace

from llmpq_jax import __version__
from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner import PlanRequest, plan
from llmpq_jax.planner.constraints import with_use
from llmpq_jax.report.console import progress_bar, tell
from llmpq_jax.report.search_progress import note_teller, search_progress
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.schema.strategy import Provenance, Strategy

_THEN = "bring a device back, then go on with --resume"


class Resolver:
    """Solves a problem again, each time without the devices that are gone by then."""

    def __init__(
        self,
        request: PlanRequest,
        *,
        command: str,
        measurements: str,
        time_limit_s: float,
        relative_gap: float,
        on_plan: Callable[[Strategy], None],
    ) -> None:
        """Takes the problem that the running plan solves.

        Args:
            request: With all devices.
            command: As typed, for the new plans' provenance.
            measurements: Their digest, likewise.
            time_limit_s: Of each search.
            relative_gap: At which a plan counts as the best.
            on_plan: Takes each new plan before it runs.
        """
        self._request = request
        self._command = command
        self._measurements = measurements
        self._time_limit_s = time_limit_s
        self._relative_gap = relative_gap
        self._on_plan = on_plan
        self._gone: frozenset[str] = frozenset()

    def __call__(self, gone: DeviceFailedError) -> Strategy:
        """Returns the best plan on what is left.

        Raises:
            InfeasibleError: There is none.
        """
        # A node that left may come back; a device that failed on a node that is there
        # is not tried again.
        self._gone |= set(gone.devices)
        tell(f"{gone.what}: solving again without it")
        request = without(self._request, devices=self._gone, nodes=gone.nodes)
        with progress_bar("solving", None, unit="cases") as advance:
            strategy = plan(
                request,
                time_limit_s=self._time_limit_s,
                relative_gap=self._relative_gap,
                progress=search_progress(advance),
                on_note=note_teller(advance),
            )
        strategy = replace(
            strategy,
            provenance=Provenance(
                program=f"llmpq-jax {__version__}",
                command=self._command,
                date=datetime.datetime.now(datetime.UTC).date().isoformat(),
                cluster=request.cluster.name,
                measurements=self._measurements,
            ),
        )
        self._on_plan(strategy)
        return strategy


def without(
    request: PlanRequest, *, devices: frozenset[str], nodes: tuple[str, ...]
) -> PlanRequest:
    """Returns the same problem on what is left.

    Args:
        request: With all devices.
        devices: Full names of those that are gone.
        nodes: That are there; the devices of others are gone too.

    Raises:
        InfeasibleError: Nothing is left, or not what is pinned.
    """
    cluster = request.cluster
    gone = [
        node_device.name
        for node_device in cluster.node_devices
        if node_device.name in devices or node_device.node.name not in nodes
    ]
    if all(node_device.name in gone for node_device in cluster.node_devices):
        msg = f"no device of the cluster {cluster.name!r} is left (nodes that answer: {', '.join(nodes) or 'none'}): {_THEN}"
        raise InfeasibleError(msg)
    try:
        return replace(request, cluster=with_use(cluster, dict.fromkeys(gone, "never")))
    except ValueError as reason:
        msg = f"no plan is left without {', '.join(gone)}: {reason}; {_THEN}"
        raise InfeasibleError(msg) from reason
