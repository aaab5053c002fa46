"""Files of records: read as they were written, or refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax.errors import ClusterError, SpecError
from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.record_files import (
    read_cluster,
    read_sensitivity,
    write_cluster,
    write_sensitivity,
)
from llmpq_jax.schema.sensitivity import LayerSensitivity, Sensitivity

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
SENSITIVITY = Sensitivity(
    model="tiny",
    fingerprint="sha256:1",
    method="weight-variance",
    unit="noise over signal",
    group_size=64,
    head_8=1e-5,
    layers=(
        LayerSensitivity(layer=0, bits=8, omega=1e-4),
        LayerSensitivity(layer=0, bits=4, omega=0.1),
    ),
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


def test_sensitivities_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "sensitivity.toml"
    write_sensitivity(path, SENSITIVITY)
    assert read_sensitivity(path) == SENSITIVITY


def test_an_invalid_sensitivity_file_is_refused(tmp_path):
    path = tmp_path / "sensitivity.toml"
    with pytest.raises(SpecError, match=r"sensitivity .*: cannot be read"):
        read_sensitivity(path)


@pytest.mark.parametrize(
    "rounded", ["model", "../other/model", "a/b", ".", "/a/b", None]
)
def test_a_path_survives_a_file_in_another_folder(rounded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("plans/deep/sensitivity.toml")
    write_sensitivity(path, replace(SENSITIVITY, rounded=rounded))
    assert read_sensitivity(path).rounded == rounded
    is_absolute = rounded == "/a/b"
    assert ('rounded = "/a/b"' in path.read_text()) == is_absolute
