"""Links between machines, measured as typed, and what plans make of them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from llmpq_jax.schema.cluster import Cluster, Device, Link, Node
from llmpq_jax.schema.record_files import write_cluster
from tests.cli.conftest import SIZES
from tests.support.ray_machines import Machines

NAMES = ("node0", "node1")


def cluster_of(*links: Link) -> Cluster:
    device = Device(name="cpu:0", kind="cpu", platform="cpu", memory_bytes=64 << 20)
    nodes = tuple(Node(name=name, devices=(device,)) for name in NAMES)
    return Cluster(name="apart", nodes=nodes, links=links)


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    path = tmp_path / "apart.toml"
    write_cluster(path, cluster_of())
    return path


@pytest.fixture
def copied(measurements: Path, tmp_path: Path) -> Path:
    """The measurements, without links within a node."""
    path = tmp_path / "measurements.toml"
    text = measurements.read_text().split("[[link]]")[0]
    path.write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_links_between_nodes_are_measured_and_planned_with(
    run, fails, model, apart, copied, machines: Machines, tmp_path
):
    solve = ("solve", "--model", model, "--cluster", apart, "--measurements", copied)
    pins = ("--pin-layers", "0:2=node0/cpu:0", "--pin-layers", "2:4=node1/cpu:0")
    out = tmp_path / "strategy.toml"
    line = fails(*solve, *SIZES, *pins, "--out", out)
    assert "--between-nodes" in line
    assert "bandwidth_bytes_per_s" in line

    words = ("profile", "--model", model, "--cluster", apart, "--out", copied)
    words += (*SIZES, "--between-nodes", "--address", machines.address)
    result = run(*words)
    assert result.exit_code == 0, result.output
    rows = tomllib.loads(copied.read_text())["link"]
    ways = {(row["source_node"], row["target_node"]) for row in rows}
    assert ways == {NAMES, NAMES[::-1]}
    # Hidden states of 1 to 16 tokens, each size once each way.
    assert len(rows) == 8
    assert len({(row["source_node"], row["num_bytes"]) for row in rows}) == 8
    assert all(row["seconds"] > 0 for row in rows)
    assert result.stdout.count("node0") == result.stdout.count("node1") == 8

    before = copied.read_bytes()
    again = run(*words)
    assert again.exit_code == 0
    assert "unchanged" in again.stdout
    assert copied.read_bytes() == before

    result = run(*solve, *SIZES, *pins, "--out", out)
    assert result.exit_code == 0, result.output

    # What was cut off is measured again, and nothing else.
    copied.write_bytes(before[: before.rindex(b"seconds")])
    assert run(*words).exit_code == 0
    assert len(tomllib.loads(copied.read_text())["link"]) == 8


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_link_of_the_cluster_file_is_said_to_come_first(
    run, model, copied, machines: Machines, tmp_path
):
    path = tmp_path / "linked.toml"
    write_cluster(path, cluster_of(Link(between=NAMES, bandwidth_bytes_per_s=1e8)))
    words = ("profile", "--model", model, "--cluster", path, "--out", copied, *SIZES)
    result = run(*words, "--between-nodes", "--address", machines.address)
    assert result.exit_code == 0, result.output
    assert "has a [[link]] itself, which plans use" in result.stderr


def test_what_cannot_be_measured_is_said(fails, run, model, cluster, copied, tmp_path):
    words = ("profile", "--model", model, "--cluster", cluster, "--between-nodes")
    assert "has one node with devices to use" in fails(*words, "--out", copied)
    line = fails(*words, "--out", tmp_path / "none.toml")
    assert "none.toml" in line
    usage = run(*words, "--out", copied, "--quick", "--kind", "cpu")
    assert usage.exit_code == 2
    assert "--between-nodes measures no layers" in " ".join(usage.stderr.split())
    usage = run(*words[:-1], "--out", copied, "--transport", "calls")
    assert usage.exit_code == 2
    assert "--transport is for --between-nodes" in usage.stderr
