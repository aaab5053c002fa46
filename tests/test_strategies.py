"""Every committed strategy is for a model that is here and a cluster that holds it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llmpq_jax.cost.memory import stage_memory
from llmpq_jax.cost.workspace import fit_workspace
from llmpq_jax.spec.cluster_file import read_cluster
from llmpq_jax.spec.families import read_architecture
from llmpq_jax.spec.fingerprint import model_fingerprint
from llmpq_jax.spec.measurements_file import check_measurements, read_measurements
from llmpq_jax.spec.strategy_file import read_strategy

_ROOT = Path(__file__).parents[1] / "strategies"
_FOLDERS = sorted(path.parent for path in _ROOT.glob("*/strategy.toml"))


def test_there_are_strategies() -> None:
    assert len(_FOLDERS) >= 2


@pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.name)
def test_a_strategy_says_where_it_comes_from(folder: Path) -> None:
    strategy = read_strategy(folder / "strategy.toml")
    assert strategy.provenance is not None
    digest = hashlib.sha256((folder / "measurements.toml").read_bytes()).hexdigest()
    assert strategy.provenance.measurements == f"sha256:{digest}"
    assert strategy.provenance.cluster == read_cluster(folder / "cluster.toml").name
    assert strategy.certificate is not None
    assert strategy.certificate.gap <= 1e-4


@pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.name)
def test_a_strategy_tiles_its_model_and_fits_its_cluster(folder: Path) -> None:
    strategy = read_strategy(folder / "strategy.toml")
    cluster = read_cluster(folder / "cluster.toml")
    measurements = read_measurements(folder / "measurements.toml")
    model = Path(strategy.model.path)
    architecture = read_architecture(model)
    check_measurements(measurements, architecture)
    assert strategy.model.fingerprint == model_fingerprint(model)
    assert len(strategy.bits) == architecture.num_layers
    workspace = fit_workspace(measurements)
    for number, stage in enumerate(strategy.stages):
        device = cluster.find(stage.devices[0]).device
        memory = stage_memory(
            architecture,
            kind=device.kind,
            bits=stage.bits,
            is_first=number == 0,
            is_last=number == len(strategy.stages) - 1,
            workload=strategy.workload,
            micro_batch=strategy.micro_batch,
            precision=strategy.precision,
            workspace=workspace,
        )
        assert stage.predicted is not None
        assert stage.predicted.memory_bytes == memory.total
        assert memory.total <= stage.predicted.allowed_bytes == device.usable_bytes
