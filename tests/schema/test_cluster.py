from __future__ import annotations

import math

import pytest
from hypothesis import given

from llmpq_jax.errors import ClusterError
from llmpq_jax.schema.cluster import Cluster
from llmpq_jax.schema.toml import decode_record, to_toml
from llmpq_jax.units import GIB, MIB
from tests.schema import records

DEVICE = {"name": "cpu:0", "kind": "cpu", "platform": "cpu", "memory": 1000}


def read(*devices, **changes) -> Cluster:
    data = {"name": "desk", "node": [{"name": "node0", "device": list(devices)}]}
    return decode_record(
        Cluster, data | changes, where="cluster.toml", error=ClusterError
    )


@given(records.clusters())
def test_every_device_is_found_by_its_full_name(cluster):
    names = [node_devices.name for node_devices in cluster.node_devices]
    assert len(set(names)) == len(names) == sum(len(n.devices) for n in cluster.nodes)
    assert [cluster.find(name) for name in names] == list(cluster.node_devices)


@given(records.clusters())
def test_a_link_joins_two_nodes_in_both_directions(cluster):
    for first in cluster.node_devices:
        for second in cluster.node_devices:
            link = cluster.link_between(first, second)
            assert link == cluster.link_between(second, first)
            is_listed = any(
                set(each.between) == {first.node.name, second.node.name}
                for each in cluster.links
            )
            assert (link is not None) == is_listed


@given(records.clusters())
def test_a_plan_may_use_what_is_not_reserved(cluster):
    for node_devices in cluster.node_devices:
        device = node_devices.device
        assert 0 < device.usable_bytes <= device.memory_bytes
        assert device.usable_bytes + device.reserve_bytes == device.memory_bytes


def test_an_unknown_device_is_not_found():
    with pytest.raises(KeyError, match="node0/cpu:7"):
        read(DEVICE).find("node0/cpu:7")


@pytest.mark.parametrize(
    ("written", "num_bytes"),
    [("24 GiB", 24 * GIB), ("1.5 MiB", 3 * MIB // 2), ("2GB", 2 * 10**9), (512, 512)],
)
def test_memory_is_a_number_or_a_text(written, num_bytes):
    found = read(DEVICE | {"memory": written})
    assert found.node_devices[0].device.memory_bytes == num_bytes


@pytest.mark.parametrize(
    ("memory_bytes", "written"),
    [(3 * GIB, '"3 GiB"'), (5 * MIB, '"5 MiB"'), (1000, "1000")],
)
def test_round_sizes_are_written_with_their_unit(memory_bytes, written):
    text = to_toml(read(DEVICE | {"memory": memory_bytes}))
    assert f"memory = {written}\n" in text
    assert "reserve = 0\n" in text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"memory": "24 apples"}, "'24 apples' is not a size: write a number and one"),
        (
            {"memory": 1.5},
            r"device\[0\].memory: found 1.5, input should be a valid int",
        ),
        (
            {"reserve": 1000},
            "device 'cpu:0' reserves 1000 of 1000 bytes: expected a re",
        ),
        ({"reserve": -1}, "device 'cpu:0' reserves -1 of 1000 bytes: expected a rese"),
        ({"memory": 0}, "reserves 0 of 0 bytes: expected a reserve below its memory"),
        (
            {"platform": "tpu"},
            "platform: found 'tpu', input should be 'cpu', 'cuda' or 'rocm'",
        ),
        ({"use": "never"}, 'every device has use = "never": expected one that may be'),
        ({"use": "maybe"}, "use: found 'maybe', input should be 'any', 'always' or"),
        ({"name": "cpu:1000000"}, "'cpu:1000000': expected a number of at most 4095"),
        ({"name": "cpu:" + 5000 * "9"}, "expected a number of at most 4095 behind the"),
        ({"name": "cpu\n0"}, r"device 'cpu\\n0': expected a name of printable charac"),
        (
            {"memory": 10**30},
            "memory_bytes is 10+, expected at most 1,125,899,906,842,6",
        ),
        ({"memory": 400 * "9" + " GiB"}, "a size of 400 digits: expected fewer"),
    ],
)
def test_a_wrong_device_is_refused(change, complaint):
    with pytest.raises(ClusterError, match=complaint):
        read(DEVICE | change)


LINK = {"between": ["node0", "node0"], "bandwidth_bytes_per_s": 1e9}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"node": []}, r"the cluster has no node: expected at least one \[\[node\]\]"),
        (
            {"node": [{"name": "a", "device": []}]},
            "node 'a' has no device: expected at",
        ),
        (
            {"node": [{"name": "a", "device": [DEVICE]}] * 2},
            "node 'a' occurs twice: expected unique names",
        ),
        (
            {"node": [{"name": "a", "device": [DEVICE], "shared_capacity": 0.5}]},
            "node 'a' has a shared_capacity of 0.5: expected at least 1, or no such",
        ),
        (
            {"link": [LINK | {"between": ["node0", "node9"]}]},
            r"a link names node 'node9': expected one of \['node0'\]",
        ),
        (
            {"link": [LINK | {"bandwidth_bytes_per_s": 0.0}]},
            "link node0–node0 has 0.0 bytes/s and 0.0 s latency: expected a positive",
        ),
        ({"link": [LINK | {"bandwidth_bytes_per_s": 1e-300}]}, "has 1e-300 bytes/s"),
        ({"link": [LINK | {"bandwidth_bytes_per_s": math.nan}]}, "has nan bytes/s"),
        ({"link": [LINK | {"bandwidth_bytes_per_s": math.inf}]}, "has inf bytes/s"),
        ({"link": [LINK | {"latency_s": math.nan}]}, "and nan s latency: expected a"),
        (
            {"link": [LINK | {"latency_s": math.inf}]},
            "of 1 to 1e15 bytes/s, and a late",
        ),
        (
            {"link": [LINK | {"latency_s": -1.0}]},
            "has 1000000000.0 bytes/s and -1.0 s latency: expected a positive bandwidth",
        ),
        ({"link": [LINK | {"between": ["node0"]}]}, r"link\[0\].between\[1\]: missing"),
    ],
)
def test_a_wrong_cluster_is_refused(changes, complaint):
    with pytest.raises(ClusterError, match=complaint):
        read(DEVICE, **changes)


def test_a_device_that_occurs_twice_is_refused():
    complaint = "device 'cpu:0' occurs twice: expected unique names"
    with pytest.raises(ClusterError, match=complaint):
        read(DEVICE, DEVICE)


FIGURES = {"name": "cpu", "flops": 1e12, "bandwidth_bytes_per_s": 5e10}


def test_figures_of_a_kind_are_read_and_written():
    found = read(DEVICE, kind=[FIGURES])
    (kind,) = found.kinds
    assert (kind.name, kind.flops, kind.source) == ("cpu", 1e12, "the cluster file")
    assert "[[kind]]" in to_toml(found)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"name": "gpu"}, r"a \[\[kind\]\] is named 'gpu': expected one of \['cpu'\]"),
        ({"flops": 0.0}, r"kind\[0\].flops: found 0.0, input should be greater than"),
        ({"flops": math.nan}, r"kind\[0\].flops: found nan, input should be a finite"),
        ({"bandwidth_bytes_per_s": 1e300}, "found 1e.300, input should be less than"),
    ],
)
def test_wrong_figures_of_a_kind_are_refused(change, complaint):
    with pytest.raises(ClusterError, match=complaint):
        read(DEVICE, kind=[FIGURES | change])


def test_figures_of_a_kind_that_occur_twice_are_refused():
    with pytest.raises(ClusterError, match="kind 'cpu' occurs twice: expected unique"):
        read(DEVICE, kind=[FIGURES, FIGURES])
