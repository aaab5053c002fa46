from dataclasses import replace

import pytest

from llmpq_jax.errors import MeasurementError
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.record_files import read_cluster, write_cluster
from tests.support.tiny_models import write_tiny_model
from tools.emulation.nodes import EmulatedNodes
from tools.emulation.profiles import profile_nodes

ARGUMENTS = ("--quick", "--batch", "1", "--prompt-length", "8", "--new-tokens", "8")


def test_all_nodes_are_profiled_into_one_file(speeds, read, tmp_path):
    model = write_tiny_model(tmp_path / "model")
    # The slowest node is waited for.
    text = speeds.read_text().replace("0.25", "0.5").replace("0.75", "0.5")
    speeds.write_text(text.replace("256 MiB", "2 GiB"))
    out, notes = tmp_path / "measurements.toml", []
    with EmulatedNodes(read(speeds)) as nodes:
        profile_nodes(
            nodes, out, (*ARGUMENTS, "--model", str(model)), on_note=notes.append
        )
    measured = read_measurements(out)
    assert [row.kind for row in measured.kinds] == ["cpu-fast", "cpu-slow"]
    for rows in (measured.layers, measured.vocabulary_layers):
        kinds = [row.kind for row in rows]
        assert kinds.count("cpu-fast") == kinds.count("cpu-slow") > 0
    assert sorted(note.split()[0] for note in notes) == ["fast", "slow"]
    assert sorted(path.name for path in tmp_path.glob("*.toml")) == [
        "cluster.toml",
        "measurements.toml",
        "speeds.toml",
    ]


def test_a_profile_that_fails_is_one_line(speeds, read, tmp_path):
    speeds.write_text(speeds.read_text().replace("256 MiB", "2 GiB"))
    out = tmp_path / "measurements.toml"
    with (
        EmulatedNodes(read(speeds)) as nodes,
        pytest.raises(MeasurementError, match=r"ended with 1: error: .*config\.json"),
    ):
        profile_nodes(nodes, out, ("--model", str(tmp_path)), on_note=print)
    assert not out.exists()


def test_a_node_of_two_kinds_is_refused(speeds, read, tmp_path):
    cluster = read_cluster(tmp_path / "cluster.toml")
    fast, slow = cluster.nodes
    other = replace(fast.devices[0], name="cpu:1", kind="other")
    both = replace(fast, devices=(*fast.devices, other))
    write_cluster(tmp_path / "cluster.toml", replace(cluster, nodes=(both, slow)))
    with (
        EmulatedNodes(read(speeds)) as nodes,
        pytest.raises(MeasurementError, match="expected one kind in each node"),
    ):
        profile_nodes(nodes, tmp_path / "x.toml", (), on_note=print)
