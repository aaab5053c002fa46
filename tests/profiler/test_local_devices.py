import jax
import pytest

from llmpq_jax.errors import MeasurementError
from llmpq_jax.profiler.local_devices import local_devices
from llmpq_jax.schema.cluster import Cluster, Device, Node
from tests.profiler.fakes import cluster, device


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
