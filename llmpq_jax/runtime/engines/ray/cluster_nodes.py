"""Connects to a Ray cluster, and places actors on its nodes."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import _raylet
from ray._private import ray_constants, services, utils
from ray._private import worker as ray_driver
from ray.exceptions import AuthenticationError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from llmpq_jax.errors import StrategyError, WorkerFailedError
from llmpq_jax.interrupts import check_interrupt, handles_signals, restore_handlers
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.runtime.engines.ray.authentication import use_token

_TIMEOUT_S = 20.0
_POLL_S = 0.5
# Milliseconds after which a call to a process that has ended fails, even if Ray does not
# know yet how it ended. Ray's own default is a second, checked once a second.
_FAIL_SOON = {
    "RAY_timeout_ms_task_wait_for_death_info": "100",
    "RAY_core_worker_internal_heartbeat_ms": "200",
}
# Ray prints the traceback of an error that nobody asks for, such as those of all stages
# that lose the connection to one that failed.
_QUIET = {"RAY_IGNORE_UNHANDLED_ERRORS": "1"}
# Threads of an actor besides its main one, so that messages, results and heartbeats do not
# wait for other calls.
CONCURRENCY_GROUPS = {"inbox": 1, "results": 1, "health": 1}
# Ray counts resources in ten-thousandths.
_PARTS = 10_000


def node_resource(node: str) -> str:
    """Returns the name of the Ray resource of a node of the cluster file."""
    return f"llmpq_node:{node}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedActors:
    """Actors, each on its own node.

    Attributes:
        actors: Handles in the order of `nodes`; Ray restarts an actor whose process ends.
        nodes: Name of each actor's node in the cluster file.
        group: Ray's placement group of the actors.
        owns_ray: Whether this run connected to Ray, and so disconnects from it.
    """

    actors: tuple[Any, ...]
    nodes: tuple[str, ...]
    group: PlacementGroup
    owns_ray: bool

    def present_nodes(self) -> list[str]:
        """Returns the names of all nodes in the Ray cluster, used or not."""
        return sorted(_offers())

    def release(self) -> None:
        """Ends the actors and frees their nodes."""
        for actor in self.actors:
            ray.kill(actor)
        remove_placement_group(self.group)
        if self.owns_ray:
            ray.shutdown()


def place_actors(
    nodes: tuple[str, ...], actor: type, *, address: str, required_by: str = "strategy"
) -> PlacedActors:
    """Connects to a Ray cluster and starts an actor on each of some nodes.

    A node serves one command at a time, because its actors share its whole resource; it
    is repeated for several actors. Methods of an actor may be in `CONCURRENCY_GROUPS`.

    Args:
        nodes: Names of the nodes in the cluster file.
        actor: Class of the actors.
        address: Address of the cluster, "auto" for this machine's, or "local" to start
            one on this machine that has all nodes.
        required_by: Name of what names the nodes, for messages.

    Raises:
        DeviceFailedError: If a node is not part of the cluster.
        StrategyError: If a node serves another command.
        WorkerFailedError: If there is no cluster, or it refuses this machine's token.
    """
    owns_ray = not ray.is_initialized()
    if owns_ray:
        _connect(address, nodes)
    try:
        return _place(nodes, actor, owns_ray=owns_ray, required_by=required_by)
    except BaseException:
        if owns_ray:
            ray.shutdown()
        raise


def _connect(address: str, nodes: tuple[str, ...]) -> None:
    # Ray prints messages about processes that end to stdout, among the results;
    # `log_to_driver` does not suppress them.
    ray_driver._worker_logs_enabled = False
    for name, value in (_FAIL_SOON | _QUIET).items():
        os.environ.setdefault(name, value)
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    where = "on this machine" if address == "auto" else f"at {address!r}"
    try:
        if address == "local":
            use_token(may_make=True)
            _start_on_loopback(nodes, **quietly)
        else:
            _check_reachable(address)
            with _own_signals():
                ray.init(address=address, **quietly)
    except AuthenticationError as reason:
        mode = os.environ["RAY_AUTH_MODE"]
        msg = f"the Ray cluster {where} refuses this machine's token (RAY_AUTH_MODE={mode}): expected RAY_AUTH_MODE=token, or none, and the head's token in ~/.ray/auth_token or RAY_AUTH_TOKEN; copy it from there"
        raise WorkerFailedError(msg) from reason
    except (OSError, RuntimeError, ValueError) as reason:
        first = str(reason).strip().split("\n")[0]
        msg = f"no Ray cluster answers {where} ({first}): expected one that `ray start --head` started, as HOST:PORT; start it, or correct the address"
        raise WorkerFailedError(msg) from reason


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps Ray from taking over signals that this program handles.

    It would leave with the signal's number as exit code, or with a native stack trace. In
    another thread than the main one it takes over none.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not (handles_signals() and is_main):
        yield
        return
    replaced, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = replaced
        restore_handlers()


def _start_on_loopback(nodes: tuple[str, ...], **options: Any) -> None:
    """Starts a cluster that has all nodes, and that no other machine can reach."""
    # Ray reads it when it starts a cluster.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Otherwise it takes the machine's address, even if it is given 127.0.0.1, and listens
    # on all addresses.
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _own_signals():
            ray.init(
                address="local",
                include_dashboard=False,
                resources=dict.fromkeys(map(node_resource, nodes), 1),
                **options,
            )
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _check_reachable(address: str) -> None:
    """Raises if no cluster lets this machine in; Ray itself would try for a minute."""
    # An address that Ray remembers may be of a cluster that has ended.
    found = services.canonicalize_bootstrap_address(address)
    if found is None:
        msg = "none is running"
        raise ConnectionError(msg)
    host, _, port = found.rpartition(":")
    socket.create_connection((host, int(port)), _TIMEOUT_S).close()
    use_token(may_make=False)
    raylet: Any = _raylet  # Ray's type annotations lack what is in it.
    raylet.GcsClient(address=found)


def _place(
    nodes: tuple[str, ...], actor: type, *, owns_ray: bool, required_by: str
) -> PlacedActors:
    check_interrupt()
    offers = _offers()
    absent = sorted(set(nodes) - set(offers))
    if absent:
        present = ", ".join(sorted(offers)) or "none"
        what = f"the {required_by} needs the nodes {', '.join(absent)}, which the Ray cluster does not have (its nodes: {present})"
        advice = (
            f"start Ray there with --resources='{{\"{node_resource(absent[0])}\": 1}}'"
        )
        raise DeviceFailedError(what, devices=(), nodes=sorted(offers), advice=advice)
    wrong = sorted(node for node in set(nodes) if offers[node] != 1)
    if wrong:
        msg = f"the Ray cluster offers {node_resource(wrong[0])!r} {offers[wrong[0]]:g} times: expected 1, from one machine; start Ray with another --resources"
        raise StrategyError(msg)
    num_actors = Counter(nodes)
    shares = [_PARTS // num_actors[node] / _PARTS for node in nodes]
    bundles = [
        {node_resource(node): share} for node, share in zip(nodes, shares, strict=True)
    ]
    group = placement_group(bundles)
    if not _await(group):
        remove_placement_group(group)
        msg = f"the nodes {', '.join(sorted(set(nodes)))} were not free within {_TIMEOUT_S:g} s: expected none of them to serve another run; wait for it, or end it"
        raise StrategyError(msg)
    # Ray's type annotations lack these options.
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
    return PlacedActors(actors=actors, nodes=nodes, group=group, owns_ray=owns_ray)


def _await(group: PlacementGroup) -> bool:
    """Waits until a placement group has its nodes; returns whether it has."""
    deadline_s = time.perf_counter() + _TIMEOUT_S
    while not group.wait(_POLL_S):
        check_interrupt()
        if time.perf_counter() > deadline_s:
            return False
    return True


def _offers() -> dict[str, float]:
    """Returns how often the machines of the cluster offer each node's resource."""
    prefix = node_resource("")
    offers: Counter[str] = Counter()
    for machine in ray.nodes():
        if machine["Alive"]:
            for resource, amount in machine["Resources"].items():
                # Placement groups have their own resources, whose names end in "_group_…".
                if resource.startswith(prefix) and "_group_" not in resource:
                    offers[resource.removeprefix(prefix)] += amount
    return dict(offers)
