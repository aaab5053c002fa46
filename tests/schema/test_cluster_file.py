import pytest

from llmpq_jax.errors import ClusterError
from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.cluster_file import read_cluster, write_cluster

CLUSTER = Cluster(
    name="room",
    nodes=(
        Node(
            name="a",
            devices=(
                Device(
                    name="cuda:0",
                    kind="T4",
                    platform="cuda",
                    memory_bytes=16 << 30,
                    reserve_bytes=512 << 20,
                ),
                Device(
                    name="cpu:0",
                    kind="cpu",
                    platform="cpu",
                    memory_bytes=1000,
                    use="never",
                ),
            ),
        ),
    ),
    links=(Link(between=("a", "a"), bandwidth_bytes_per_s=1e9, latency_s=1e-5),),
)


def test_a_cluster_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "cluster.toml"
    write_cluster(path, CLUSTER)
    assert read_cluster(path) == CLUSTER
    assert 'memory = "16 GiB"' in path.read_text()


def test_an_invalid_cluster_file_is_refused(tmp_path):
    path = tmp_path / "cluster.toml"
    message = r"cluster .*cluster.toml: cannot be read \(No such file"
    with pytest.raises(ClusterError, match=message):
        read_cluster(path)
    path.write_text('name = "room"\n')
    with pytest.raises(ClusterError, match="node: missing, expected a value"):
        read_cluster(path)
