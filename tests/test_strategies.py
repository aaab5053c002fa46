"""Every committed strategy is for a model that is here and a cluster that holds it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llmpq_jax.arch.families import read_architecture
from llmpq_jax.arch.fingerprint import config_fingerprint, model_fingerprint
from llmpq_jax.arch.measurement_checks import check_measurements
from llmpq_jax.costmodel.workspace import fit_workspace
from llmpq_jax.schema.measurements_file import read_measurements
from llmpq_jax.schema.record_files import read_cluster, read_strategy
from llmpq_jax.schema.strategy import relative_gap
from llmpq_jax.tasks.unmeasured import catalogue_digest, roofline_measurements
from tests.referees.stage_memory import stage_memory
from tools.paper_clusters import CLUSTERS, PaperCluster, make_cluster

_ROOT = Path(__file__).parents[1] / "strategies"
_FOLDERS = sorted(path.parent for path in _ROOT.glob("*/strategy.toml"))


def _is_foretold(folder: Path) -> bool:
    predicted = read_strategy(folder / "strategy.toml").predicted
    assert predicted is not None
    return predicted.source == "roofline"


def test_there_are_strategies_measured_and_foretold() -> None:
    assert sum(not _is_foretold(folder) for folder in _FOLDERS) >= 2
    assert sum(map(_is_foretold, _FOLDERS)) == len(CLUSTERS) == 11


@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.folder.name)
def test_a_cluster_of_the_paper_is_what_its_tool_writes(cluster: PaperCluster) -> None:
    found = read_cluster(cluster.folder / "cluster.toml")
    assert found == make_cluster(found.name, cluster.kinds)


@pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.name)
def test_a_strategy_says_where_it_comes_from(folder: Path) -> None:
    strategy = read_strategy(folder / "strategy.toml")
    assert strategy.provenance is not None
    if _is_foretold(folder):
        assert strategy.provenance.measurements == catalogue_digest()
    else:
        digest = hashlib.sha256((folder / "measurements.toml").read_bytes()).hexdigest()
        assert strategy.provenance.measurements == f"sha256:{digest}"
    assert strategy.provenance.cluster == read_cluster(folder / "cluster.toml").name
    proof = strategy.certificate
    assert proof is not None
    assert proof.bound <= proof.objective
    assert proof.gap == relative_gap(proof.objective, proof.bound)
    assert strategy.request is not None
    # Both numbers are rounded to nine digits, in opposite directions.
    assert proof.gap <= strategy.request.search.gap + 2 * 1e-8
    sources = strategy.request.sources
    assert Path(sources.cluster) == folder / "cluster.toml"
    assert sources.roofline == _is_foretold(folder)


@pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.name)
def test_a_strategy_tiles_its_model_and_fits_its_cluster(folder: Path) -> None:
    strategy = read_strategy(folder / "strategy.toml")
    cluster = read_cluster(folder / "cluster.toml")
    model = Path(strategy.model.path)
    architecture = read_architecture(model)
    if _is_foretold(folder):
        measurements = roofline_measurements(
            model, architecture, cluster, strategy.workload
        )
        assert strategy.model.fingerprint == config_fingerprint(architecture)
    else:
        measurements = read_measurements(folder / "measurements.toml")
        check_measurements(measurements, architecture)
        assert strategy.model.fingerprint == model_fingerprint(model)
    assert len(strategy.bits) == architecture.num_layers
    workspace = fit_workspace(
        measurements, architecture, kv_bits=strategy.precision.kv_bits
    )
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
