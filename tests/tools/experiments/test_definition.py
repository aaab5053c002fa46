"""What is fixed before anything is measured."""

import pytest

from llmpq_jax.schema.record_files import read_cluster
from tools.emulation.speeds import read_emulation
from tools.experiments.definition import Experiment, read_experiment
from tools.experiments.even import even_plan
from tools.generated import ROOT

EXPERIMENT = read_experiment()


@pytest.mark.parametrize("name", EXPERIMENT.clusters)
def test_a_cluster_leaves_the_scheduler_a_part_of_both_processors(name):
    path = EXPERIMENT.cluster_folder(name) / "speeds.toml"
    emulation = read_emulation(path, frozenset({0, 1}))
    for processor in (0, 1):
        nodes = emulation.speeds.nodes
        assert sum(n.speed for n in nodes if n.processor == processor) <= 0.95


def test_speeds_go_from_one_to_two_to_one_to_five():
    ratios = []
    for name in EXPERIMENT.clusters:
        path = EXPERIMENT.cluster_folder(name) / "speeds.toml"
        speeds = [n.speed for n in read_emulation(path, frozenset({0, 1})).speeds.nodes]
        ratios.append(max(speeds) / min(speeds))
    assert ratios == pytest.approx([2, 3, 5])


def test_prompts_are_the_same_each_time_and_within_the_vocabulary():
    first, again = EXPERIMENT.prompts(), EXPERIMENT.prompts()
    assert (first == again).all()
    assert first.shape == (EXPERIMENT.batch, EXPERIMENT.prompt_length)
    assert 3 <= first.min() <= first.max() < 8192


def test_ablations_are_measured_on_two_clusters():
    assert set(EXPERIMENT.ablated) < set(EXPERIMENT.clusters)
    assert len(EXPERIMENT.ablated) == 2


@pytest.mark.parametrize("name", EXPERIMENT.clusters)
def test_hops_are_timed_in_a_pipeline_over_all_nodes(name, monkeypatch):
    tiny = ROOT / "examples" / "tiny-code-lm"
    monkeypatch.setattr(Experiment, "model_path", tiny)
    cluster = read_cluster(EXPERIMENT.cluster_folder(name) / "cluster.toml")
    strategy = even_plan(EXPERIMENT, cluster)
    assert [stage.device for stage in strategy.stages] == [
        placed.name for placed in cluster.node_devices
    ]
    # Every node has something to do at any time.
    assert strategy.workload.batch // strategy.micro_batch.decode >= len(cluster.nodes)
