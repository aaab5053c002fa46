"""Links between machines are timed under Ray."""

from __future__ import annotations

import numpy as np
import pytest

from llmpq_jax.errors import StrategyError, WorkerFailedError
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.runtime.engines.ray import link_probe
from llmpq_jax.runtime.engines.ray.link_probe import LinkProbe, time_links
from llmpq_jax.runtime.engines.ray.probe_actor import ProbeActor
from tests.support.ray_machines import Machines

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

DEVICES = ("node0/cpu:0", "node1/cpu:1")
PROBES = tuple(
    LinkProbe(source=source, target=target, num_tokens=count)
    for source, target in (DEVICES, DEVICES[::-1])
    for count in (1, 4096)
)


@pytest.mark.parametrize("transport", ["sockets", "calls", "transfer"])
def test_links_are_timed_both_ways(machines: Machines, transport):
    timed = list(
        time_links(
            PROBES,
            hidden_size=8,
            dtype="bfloat16",
            pause_s=0.001,
            address=machines.address,
            transport=transport,
        )
    )
    assert tuple(probe for probe, _ in timed) == PROBES
    assert all(len(samples) >= 3 for _, samples in timed)
    assert all(np.median(samples) > 0 for _, samples in timed)


def first_timed(probes, address, **options):
    timed = time_links(
        probes,
        hidden_size=8,
        dtype="float32",
        pause_s=0.0,
        address=address,
        **options,
    )
    return next(timed)


def test_missing_nodes_and_devices_are_named(machines: Machines, monkeypatch):
    elsewhere = LinkProbe(source="node0/cpu:0", target="attic/cpu:0", num_tokens=1)
    with pytest.raises(
        DeviceFailedError, match="the cluster file needs the nodes attic"
    ):
        first_timed([elsewhere], machines.address)
    gpu = LinkProbe(source="node0/cpu:0", target="node1/cuda:7", num_tokens=1)
    with pytest.raises(StrategyError, match=r"^node1/cuda:7: device "):
        first_timed([gpu], machines.address)
    monkeypatch.setattr(link_probe, "__version__", "0.0.1")
    with pytest.raises(
        StrategyError, match=r"^node0/cpu:0: llmpq-jax is .* and 0\.0\.1"
    ):
        first_timed(PROBES, machines.address)


def test_a_process_that_ends_is_an_error(machines: Machines, monkeypatch):
    start_epoch = ProbeActor.start_epoch

    def end(self, epoch, peer):
        import os

        os._exit(1)

    monkeypatch.setattr(ProbeActor, "start_epoch", end)
    with pytest.raises(
        WorkerFailedError, match=r"from node0/cpu:0 to node1/cpu:1: the process"
    ):
        first_timed(PROBES, machines.address)
    monkeypatch.setattr(ProbeActor, "start_epoch", start_epoch)
    # The machines are free again.
    probe, samples = first_timed(PROBES, machines.address)
    assert probe == PROBES[0]
    assert len(samples) >= 3
