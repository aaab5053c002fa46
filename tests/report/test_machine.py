from __future__ import annotations

from dataclasses import replace

from llmpq_jax.report.console import print_table
from llmpq_jax.report.tables import machine_table
from llmpq_jax.schema.cluster import Link
from tests.profiler.fakes import cluster, device


def test_devices_cores_and_links_are_told(capsys):
    described = cluster(device("cpu:0", "big"), device("cpu:1", "small"))
    (node,) = described.nodes
    link = Link(
        between=("node0", "node0"), bandwidth_bytes_per_s=2.0**30, latency_s=5e-5
    )
    described = replace(described, nodes=(replace(node, cores=6),), links=(link,))
    print_table(machine_table(described))
    out = capsys.readouterr().out
    assert "node0/cpu:1" in out
    assert "small" in out
    assert "node0: 6 cores" in out
    assert "node0: 1 GiB/s after 50 µs" in out
