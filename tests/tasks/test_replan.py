"""The same problem, solved again on the remaining devices."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner.pins import LayerPin, with_use
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.schema.solve_request import SolveRequest, Sources
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.replan import Replanner, without
from tests.planner.requests import request


def gone(*devices: str, nodes: tuple[str, ...] = ("node0",)) -> DeviceFailedError:
    return DeviceFailedError("a device is gone", devices=devices, nodes=nodes)


def names_of(strategy: Strategy) -> set[str]:
    return {name for stage in strategy.stages for name in stage.devices}


def test_a_device_that_failed_once_is_not_tried_again():
    asked = request("fast", "fast", "slow")
    first, second, third = (
        node_device.name for node_device in asked.cluster.node_devices
    )
    used = with_use(asked.cluster, {first: "always", second: "always"})
    plans: list[Strategy] = []
    resolve = Replanner(
        replace(asked, cluster=used),
        SolveRequest(sources=Sources(cluster="cluster.toml", roofline=True)),
        command="llmpq-jax generate",
        on_plan=plans.append,
    )
    assert first not in names_of(resolve(gone(first)))
    last = resolve(gone(second))
    assert names_of(last) == {third}
    assert plans[-1] == last
    assert last.provenance is not None
    assert last.provenance.command == "llmpq-jax generate"
    assert last.request is not None
    assert last.request.choices.leave_idle == (first, second)
    with pytest.raises(InfeasibleError, match="no device of the cluster 'room' is le"):
        resolve(gone(third))


def test_the_devices_of_a_node_that_is_not_there_are_gone():
    with pytest.raises(
        InfeasibleError,
        match=r"is left \(nodes that answer: attic\): bring a device back, then run this",
    ):
        without(request("fast"), devices=frozenset(), nodes=("attic",))


def test_a_pin_on_what_is_gone_is_named():
    asked = request("fast", "fast")
    first, _ = (node_device.name for node_device in asked.cluster.node_devices)
    pinned = replace(asked, pins=(LayerPin(first=0, end=2, device=first),))
    with pytest.raises(
        InfeasibleError,
        match=f"^no plan is left without {first}: pinned layers 0:2 on {first}, which",
    ):
        without(pinned, devices=frozenset({first}), nodes=("node0",))
