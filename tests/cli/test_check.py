"""`llmpq-jax check`: what the compiler says of a strategy, without its weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from llmpq_jax.schema.record_files import read_strategy, write_strategy
from llmpq_jax.schema.strategy import StagePrediction
from tests.support.ray_machines import on_nodes
from tests.support.tiny_models import write_tiny_model


@pytest.fixture
def planned(strategy, tmp_path, model):
    """Writes the strategy with a prediction of these bytes for each stage."""

    def write(allowed_bytes, folder=model, nodes=("node0", "node0")):
        given = on_nodes(read_strategy(strategy), *nodes)
        said = StagePrediction(
            prefill_s=1.0,
            decode_s=1.0,
            memory_bytes=allowed_bytes,
            allowed_bytes=allowed_bytes,
        )
        path = tmp_path / "planned.toml"
        stages = tuple(replace(stage, predicted=said) for stage in given.stages)
        reference = replace(given.model, path=str(folder))
        write_strategy(path, replace(given, model=reference, stages=stages))
        return path

    return write


def test_compiled_memory_is_shown_with_the_prediction(run, planned):
    result = run("check", "--strategy", planned(1 << 30))
    assert result.exit_code == 0, result.output
    for text in ("node0/cpu:0", "node0/cpu:1", "compiled", "1 GiB"):
        assert text in result.stdout


def test_config_alone_is_enough_until_weights_are_asked_for(
    run, fails, planned, model, tmp_path
):
    folder = tmp_path / "config-alone"
    folder.mkdir()
    shutil.copy(model / "config.json", folder)
    path = planned(1 << 30, folder)
    values = json.loads(run("check", "--strategy", path, "--json").stdout)
    assert [stage["fits"] for stage in values["stages"]] == [True, True]
    assert all(stage["loaded"] is None for stage in values["stages"])
    assert "config-alone" in fails("check", "--strategy", path, "--load")


def test_loaded_weights_are_within_what_was_compiled(run, planned):
    values = json.loads(
        run("check", "--strategy", planned(1 << 30), "--load", "--json").stdout
    )
    for stage in values["stages"]:
        assert 0 < stage["loaded"] < stage["compiled"]


def test_a_stage_that_overfills_its_device_is_refused(run, planned):
    result = run("check", "--strategy", planned(4096))
    assert result.exit_code == 1
    assert "node0/cpu:0 needs" in result.stderr
    assert "may use 4 KiB: solve again with a smaller batch" in result.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_stages_are_checked_on_the_machines_of_their_devices(run, planned, machines):
    words = ("check", "--strategy", planned(1 << 30), "--load", "--json")
    here = json.loads(run(*words).stdout)["stages"]
    of_ray = ("--engine", "ray", "--address", machines.address)
    apart = run(
        *(*words[:2], planned(1 << 30, nodes=("node0", "node1")), *words[3:], *of_ray)
    )
    assert apart.exit_code == 0, apart.output
    assert json.loads(apart.stdout)["stages"] == here
    line = run(*words[:2], planned(1 << 30, nodes=("node0", "node1"))).stderr
    assert "spans the nodes node0, node1: expected one" in line
    assert "use --engine ray" in line


def test_another_model_is_refused(fails, planned, tmp_path):
    other = write_tiny_model(tmp_path / "other", hidden_size=32)
    assert "solve for this model" in fails(
        "check", "--strategy", planned(1 << 30, other)
    )
