from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from llmpq_jax.errors import ClusterError, MeasurementError
from llmpq_jax.profiler import machine
from llmpq_jax.profiler.machine import (
    describe_machine,
    free_bytes,
    kind_name,
    local_devices,
)
from llmpq_jax.schema.cluster import Cluster, Device, Node
from llmpq_jax.units import GIB, MIB
from tests.profiler.fakes import cluster, device


@pytest.mark.parametrize(
    ("driver", "kind"),
    [
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100-40"),
        ("NVIDIA A100 80GB PCIe", "A100-80"),
        ("Tesla V100-SXM2-32GB", "V100-32"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX-4090-Laptop"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX-4070-Ti-SUPER"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX-2080-Ti"),
        ("NVIDIA GeForce RTX 3070 Laptop GPU", "RTX-3070-Laptop-GPU"),
        ("Apple M4 Max", "Apple-M4-Max"),
        ("13th Gen Intel(R) Core(TM) i9-13900K", "Core-i9-13900K"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "Ryzen-9-7950X"),
        ("AMD EPYC 9654 96-Core Processor", "EPYC-9654"),
        ("NVIDIA GeForce GTX 1080 Ti", "GTX-1080-Ti"),
        ("Intel(R) Xeon(R) CPU", "Intel-Xeon"),
        ("CPU", "CPU"),
    ],
)
def test_kinds_are_named_as_in_the_catalogue_where_it_has_them(driver, kind):
    assert kind_name(driver) == kind


@pytest.mark.parametrize("count", [1, 3])
def test_cpu_devices_share_the_free_memory_and_are_found_again(count):
    cluster = describe_machine(node="desk", num_cpu_devices=count)
    (node,) = cluster.nodes
    assert node.cores is not None
    assert [device.name for device in node.devices] == [
        f"cpu:{index}" for index in range(count)
    ]
    assert len({(device.kind, device.memory_bytes) for device in node.devices}) == 1
    held = sum(device.memory_bytes for device in node.devices)
    assert 0 < held < 1.5 * free_bytes()
    assert node.devices[0].reserve_bytes < node.devices[0].memory_bytes / 5
    assert list(local_devices(cluster).values()) == jax.devices()[:count]
    assert cluster.links == ()


def test_links_are_measured_where_that_is_asked():
    cluster = describe_machine(node="desk", num_cpu_devices=2, measures_links=True)
    (link,) = cluster.links
    assert link.between == ("desk", "desk")
    assert 1e6 < link.bandwidth_bytes_per_s < 1e13
    assert 0 <= link.latency_s < 1


def accelerator(platform="gpu", **stats):
    return SimpleNamespace(
        platform=platform,
        id=0,
        device_kind="NVIDIA A100-SXM4-40GB",
        memory_stats=lambda: stats or None,
    )


@pytest.fixture
def devices(monkeypatch):
    """Has JAX find the devices that a test gives."""

    def find(*found):
        every = jax.devices("cpu")
        monkeypatch.setattr(
            machine.jax, "devices", lambda which=None: every if which else list(found)
        )

    return find


def test_an_accelerator_has_what_its_driver_leaves_to_jax(devices):
    devices(accelerator(bytes_limit=30 * GIB, bytes_in_use=MIB))
    (node,) = describe_machine(node="server").nodes
    (device,) = node.devices
    assert (device.name, device.kind, device.platform) == ("cuda:0", "A100-40", "cuda")
    assert device.memory_bytes == 30 * GIB - MIB


def test_a_cpu_is_listed_with_an_accelerator_only_if_asked_for(devices):
    devices(accelerator(bytes_limit=30 * GIB))
    (node,) = describe_machine(node="server", num_cpu_devices=1).nodes
    assert [device.platform for device in node.devices] == ["cuda", "cpu"]


@pytest.mark.parametrize(
    ("found", "asked", "message"),
    [
        ([], {"num_cpu_devices": 0}, "no accelerator, and no CPU devices asked for"),
        ([], {"num_cpu_devices": 4000}, r"--cpu-devices 4000: JAX has \d+ here"),
        ([], {"measures_links": True}, "one device: expected two or more"),
        ([accelerator()], {}, "its driver does not report its memory"),
        (
            [accelerator("tpu", bytes_limit=GIB)],
            {},
            r"platform 'tpu': expected one of \['cuda', 'gpu', 'rocm'\]",
        ),
    ],
)
def test_what_cannot_be_listed_is_an_error(devices, found, asked, message):
    devices(*found)
    with pytest.raises(ClusterError, match=message):
        describe_machine(node="desk", **asked)


def test_a_container_s_limit_is_kept(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text(f"{512 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{384 * MIB}\n")
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path)
    assert free_bytes() == 128 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes() > 128 * MIB


def test_devices_are_found_by_platform_and_number():
    found = local_devices(cluster(device("cpu:2", "a"), device("cpu:0", "b")))
    assert found == {"node0/cpu:2": jax.devices()[2], "node0/cpu:0": jax.devices()[0]}


def test_only_the_kinds_that_are_asked_for_are_found():
    both = cluster(device("cpu:0", "a"), device("tpu:0", "b", "cuda"))
    assert list(local_devices(both, ("a",))) == ["node0/cpu:0"]


def test_one_device_of_a_kind_is_enough():
    many = cluster(device("cpu:0"), device("cpu:4000"))
    assert list(local_devices(many)) == ["node0/cpu:0"]


def test_a_device_that_is_never_used_is_not_measured():
    pinned = Device(
        name="cuda:0", kind="b", platform="cuda", memory_bytes=1, use="never"
    )
    assert list(local_devices(cluster(device(), pinned))) == ["node0/cpu:0"]


def test_devices_of_other_nodes_are_looked_up_here_as_well():
    nodes = tuple(Node(name=name, devices=(device("cpu:1"),)) for name in ("x", "y"))
    found = local_devices(Cluster(name="two", nodes=nodes))
    assert found == {"x/cpu:1": jax.devices()[1], "y/cpu:1": jax.devices()[1]}


@pytest.mark.parametrize(
    ("made_of", "kinds", "message"),
    [
        (
            device("cpu:4000", "far"),
            None,
            r"kind 'far': JAX finds none of node0/cpu:4000 here: run `llmpq-jax profile` on a machine that has one",
        ),
        (
            device("cuda:99", "gpu", "cuda"),
            None,
            r"kind 'gpu': JAX finds none of node0/cuda:99 here",
        ),
        (
            device("cpu0", "odd"),
            None,
            r"kind 'odd': device 'node0/cpu0': expected a name such as node0/cpu:0, with its platform 'cpu'",
        ),
        (
            device("cpu:0", "odd", "cuda"),
            None,
            r"kind 'odd': device 'node0/cpu:0': expected a name such as node0/cuda:0",
        ),
        (
            device("cpu:0", "here"),
            ("there",),
            r"cluster 'test' has no devices of kind 'there' to measure: expected one of \['here'\]",
        ),
    ],
)
def test_a_kind_that_is_not_here_is_named(made_of, kinds, message):
    with pytest.raises(MeasurementError, match=message):
        local_devices(cluster(made_of), kinds)
