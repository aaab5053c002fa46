"""Whatever number a file holds, a command ends with a result or with one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_jax.schema.cluster import Link
from llmpq_jax.schema.record_files import (
    read_cluster,
    write_cluster,
    write_sensitivity,
)
from llmpq_jax.sensitivity.weight_variance import weight_variance
from tests.cli.extreme_numbers import words

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(run, model, cluster, measurements, tmp_path):
    """All files of a plan, each with as many of its numbers as it may have."""
    shutil.copytree(model, tmp_path / "model")
    (node,) = read_cluster(cluster).nodes
    first, second = node.devices
    nodes = (
        replace(node, devices=(first,), cores=2, shared_capacity=1.5),
        replace(node, devices=(second,), name="other"),
    )
    link = Link(between=("node0", "other"), bandwidth_bytes_per_s=1e9, latency_s=1e-5)
    room = replace(read_cluster(cluster), nodes=nodes, links=(link,))
    write_cluster(tmp_path / "cluster.toml", room)
    shutil.copy(measurements, tmp_path / "measurements.toml")
    write_sensitivity(tmp_path / "sensitivity.toml", weight_variance(model))
    command = [*words(tmp_path, "cluster.toml"), "--use", "other/cpu:1"]
    assert run(*command, "--omega-budget", 9).exit_code == 0
    (tmp_path / "out.toml").rename(tmp_path / "strategy.toml")
    return tmp_path


def wrong_ends(folder: Path, step: int) -> list[dict[str, str]]:
    command = [
        sys.executable,
        "-m",
        "tests.cli.extreme_numbers",
        str(folder),
        str(step),
    ]
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_some_numbers_end_in_a_result_or_in_one_line(folder):
    assert wrong_ends(folder, 131) == []


@pytest.mark.full
def test_every_number_ends_in_a_result_or_in_one_line(folder):
    assert wrong_ends(folder, 1) == []
