from __future__ import annotations

import pytest

from llmpq_jax.schema.record_files import read_cluster


def test_a_cluster_file_is_written_and_serves_profile(run, model, tmp_path):
    out = tmp_path / "cluster.toml"
    result = run("devices", "--out", out, "--node", "desk", "--cpu-devices", 2)
    assert result.exit_code == 0, result.output
    assert f"written      {out}" in result.stdout
    assert "desk/cpu:1" in result.stdout
    cluster = read_cluster(out)
    assert [node_devices.name for node_devices in cluster.node_devices] == [
        "desk/cpu:0",
        "desk/cpu:1",
    ]
    measured = ("--out", tmp_path / "m.toml", "--batch", 1, "--new-tokens", 1)
    result = run("profile", "--model", model, "--cluster", out, *measured)
    assert result.exit_code == 0, result.output


def test_without_a_file_it_goes_to_stdout_and_nothing_else(run, tmp_path):
    result = run("devices")
    assert result.exit_code == 0
    path = tmp_path / "cluster.toml"
    path.write_text(result.stdout)
    assert len(read_cluster(path).node_devices) == 1


def test_a_file_that_is_there_is_kept(fails, run, tmp_path):
    out = tmp_path / "cluster.toml"
    out.write_text("mine")
    line = fails("devices", "--out", out)
    assert line == f"{out}: exists already: choose another file, or --overwrite it"
    assert out.read_text() == "mine"
    assert run("devices", "--out", out, "--overwrite").exit_code == 0
    assert len(read_cluster(out).node_devices) == 1


@pytest.mark.parametrize("name", ["a/b", ""])
def test_a_node_has_a_name_without_a_slash(fails, name):
    line = fails("devices", "--node", name)
    assert line.startswith(f"--node {name!r}: expected a name without a slash")


def test_one_device_has_no_link_and_is_written_all_the_same(run, tmp_path):
    out = tmp_path / "cluster.toml"
    result = run("devices", "--links", "--out", out)
    assert result.exit_code == 0, result.output
    assert "node0 has one device, whose memory was read; there is no" in result.stderr
    cluster = read_cluster(out)
    assert len(cluster.node_devices) == 1
    assert cluster.links == ()
