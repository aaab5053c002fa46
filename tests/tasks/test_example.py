from __future__ import annotations

import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.costmodel.memory import layer_bytes, layer_kv_bytes
from llmpq_jax.errors import CheckpointError
from llmpq_jax.profiler.grid import QUICKSTART_GRID, Shape
from llmpq_jax.schema.buckets import bucket_length
from llmpq_jax.schema.record_files import read_cluster
from llmpq_jax.schema.workload import MicroBatch
from llmpq_jax.tasks.example import (
    CLUSTER,
    MODEL,
    WORKLOAD,
    find_model,
    four_cpu_devices,
)
from tests.support.tiny_models import write_tiny_model


def test_the_committed_cluster_is_the_one_that_would_be_made():
    made = four_cpu_devices(read_architecture(MODEL))
    assert read_cluster(CLUSTER) == made


def test_devices_are_unequal_and_too_small_for_16_bits(tmp_path):
    architecture = read_architecture(write_tiny_model(tmp_path, num_hidden_layers=48))
    devices = [
        node_devices.device
        for node_devices in four_cpu_devices(architecture).node_devices
    ]
    sizes = [device.memory_bytes for device in devices]
    assert len(set(sizes)) > 1
    layer = layer_bytes(architecture, bits=16, group_size=128) + layer_kv_bytes(
        architecture,
        workload=WORKLOAD,
        micro_batch=MicroBatch(prefill=1, decode=1),
        activations="float32",
    )
    assert sum(size // layer for size in sizes) < 48


def test_the_quick_grid_measures_the_very_batch_that_is_run():
    shape = Shape(
        rows=WORKLOAD.batch,
        num_tokens=bucket_length(WORKLOAD.prompt_length),
        num_slots=bucket_length(WORKLOAD.context_length),
    )
    assert shape in QUICKSTART_GRID.shapes


def test_the_example_is_found_from_here_and_from_its_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "checkout"
    with pytest.raises(
        CheckpointError, match="is not here: expected the example model"
    ):
        find_model(root)
    write_tiny_model(root / MODEL)
    assert find_model(root) == root / MODEL
    write_tiny_model(tmp_path / MODEL)
    assert find_model(root) == MODEL
