"""The same problem, solved again on what is left."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmpq_jax.errors import InfeasibleError
from llmpq_jax.planner.constraints import LayerPin, with_use
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.schema.strategy import Strategy
from llmpq_jax.tasks.replan import Resolver, without
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
    told: list[Strategy] = []
    resolve = Resolver(
        replace(asked, cluster=used),
        command="llmpq-jax generate",
        measurements="sha256:0",
        time_limit_s=60,
        relative_gap=1e-4,
        on_plan=told.append,
    )
    assert first not in names_of(resolve(gone(first)))
    last = resolve(gone(second))
    assert names_of(last) == {third}
    assert told[-1] == last
    assert last.provenance is not None
    assert last.provenance.command == "llmpq-jax generate"
    with pytest.raises(InfeasibleError, match="no device of the cluster 'room' is le"):
        resolve(gone(third))


def test_the_devices_of_a_node_that_is_not_there_are_gone():
    with pytest.raises(
        InfeasibleError,
        match=r"is left \(nodes that answer: attic\): bring a device back, then go on",
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
