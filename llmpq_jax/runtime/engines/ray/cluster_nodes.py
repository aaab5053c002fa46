"""A Ray cluster, and actors at their places on it."""

from __future__ import annotations

import os
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import services
from ray._private import worker as ray_driver
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from llmpq_jax.errors import StrategyError, WorkerFailedError
from llmpq_jax.runtime.engines.engine import DeviceFailedError

_PATIENCE_S = 20.0
# A call to a process that has ended fails when Ray has heard how it ended, or after so
# many milliseconds, where Ray would wait a thousand and look once a second: that it ended
# is enough to know.
_NOTICE_SOON = {
    "RAY_timeout_ms_task_wait_for_death_info": "100",
    "RAY_core_worker_internal_heartbeat_ms": "200",
}
# Threads of an actor beside the one that does what it is asked; a message, a result or a
# sign of life waits for nothing else.
CONCURRENCY_GROUPS = {"inbox": 1, "results": 1, "health": 1}
# Ray counts resources in ten-thousandths.
_PARTS = 10_000


def node_resource(node: str) -> str:
    """Returns the resource that a machine offers under its name in the cluster file."""
    return f"llmpq_node:{node}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReservedNodes:
    """Actors, each on the machine that is named for it.

    Attributes:
        actors: As they were asked for; Ray starts one anew when its process ends.
        nodes: Each one's machine, by its name in the cluster file.
        group: What Ray holds for them.
        owns_ray: Whether Ray was connected to for this run.
    """

    actors: tuple[Any, ...]
    nodes: tuple[str, ...]
    group: PlacementGroup
    owns_ray: bool

    def present_nodes(self) -> list[str]:
        """Returns the machines that Ray has, its own and others."""
        return sorted(_offers())

    def give_back(self) -> None:
        """Ends the actors and frees their machines."""
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.group)
        if self.owns_ray:
            ray.shutdown()


def reserve_nodes(
    nodes: tuple[str, ...], actor: type, *, address: str, wanted_by: str = "strategy"
) -> ReservedNodes:
    """Connects to a cluster and starts an actor for each of some nodes.

    A machine serves one command at a time: its actors share its resource out.

    Args:
        nodes: By their names in the cluster file, one as often as it is to have actors.
        actor: What they are instances of; its methods know `CONCURRENCY_GROUPS`.
        address: Of the cluster; "auto" for the one this machine is part of, "local" for
            one of this machine alone, which then stands for all that are named.
        wanted_by: What names the nodes.

    Raises:
        DeviceFailedError: A machine is not part of the cluster.
        StrategyError: A machine serves another command.
        WorkerFailedError: There is no cluster.
    """
    owns_ray = not ray.is_initialized()
    if owns_ray:
        _connect(address, nodes)
    try:
        return _place(nodes, actor, owns_ray=owns_ray, wanted_by=wanted_by)
    except BaseException:
        if owns_ray:
            ray.shutdown()
        raise


def _connect(address: str, nodes: tuple[str, ...]) -> None:
    # Ray prints what it has to say of processes that end to stdout, among the results;
    # `log_to_driver` does not hold it back.
    ray_driver._worker_logs_enabled = False
    for name, value in _NOTICE_SOON.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        # Read by Ray alone, when it starts a cluster.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {
            "include_dashboard": False,
            "resources": dict.fromkeys(map(node_resource, nodes), 1),
        }
    try:
        if address != "local":
            _check_answers(address)
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as reason:
        where = "on this machine" if address == "auto" else f"at {address!r}"
        first = str(reason).strip().split("\n")[0]
        msg = f"no Ray cluster answers {where} ({first}): expected one that `ray start --head` began, as HOST:PORT; start it, or correct the address"
        raise WorkerFailedError(msg) from reason


def _check_answers(address: str) -> None:
    """Fails where nobody listens: Ray itself would try for more than a minute."""
    # What Ray remembers of this machine may be of a cluster that is long gone.
    found = services.canonicalize_bootstrap_address(address)
    if found is None:
        msg = "none is running"
        raise ConnectionError(msg)
    host, _, port = found.rpartition(":")
    socket.create_connection((host, int(port)), _PATIENCE_S).close()


def _place(
    nodes: tuple[str, ...], actor: type, *, owns_ray: bool, wanted_by: str
) -> ReservedNodes:
    offers = _offers()
    absent = sorted(set(nodes) - set(offers))
    if absent:
        there = ", ".join(sorted(offers)) or "none"
        what = f"the {wanted_by} needs the nodes {', '.join(absent)}, which the Ray cluster does not have (its nodes: {there})"
        advice = (
            f"start Ray there with --resources='{{\"{node_resource(absent[0])}\": 1}}'"
        )
        raise DeviceFailedError(what, devices=(), nodes=sorted(offers), advice=advice)
    doubles = sorted(node for node in set(nodes) if offers[node] != 1)
    if doubles:
        msg = f"the Ray cluster offers {node_resource(doubles[0])!r} {offers[doubles[0]]:g} times: expected 1, from one machine; start Ray with another --resources"
        raise StrategyError(msg)
    num_actors = Counter(nodes)
    shares = [_PARTS // num_actors[node] / _PARTS for node in nodes]
    bundles = [
        {node_resource(node): share} for node, share in zip(nodes, shares, strict=True)
    ]
    group = placement_group(bundles)
    if not group.wait(_PATIENCE_S):
        remove_placement_group(group)
        msg = f"the nodes {', '.join(sorted(set(nodes)))} were not free within {_PATIENCE_S:g} s: expected none of them to serve another run; wait for it, or end it"
        raise StrategyError(msg)
    # Ray's types do not know its own options.
    remote: Any = ray.remote
    remote_actor = remote(concurrency_groups=CONCURRENCY_GROUPS)(actor)
    actors = tuple(
        remote_actor.options(
            num_cpus=0,
            resources=bundle,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=number
            ),
        ).remote()
        for number, bundle in enumerate(bundles)
    )
    return ReservedNodes(actors=actors, nodes=nodes, group=group, owns_ray=owns_ray)


def _offers() -> dict[str, float]:
    """Returns how often each node's name is offered by machines that are there."""
    prefix = node_resource("")
    offers: Counter[str] = Counter()
    for machine in ray.nodes():
        if machine["Alive"]:
            for resource, amount in machine["Resources"].items():
                # A placement group has resources of its own, with its number behind.
                if resource.startswith(prefix) and "_group_" not in resource:
                    offers[resource.removeprefix(prefix)] += amount
    return dict(offers)
