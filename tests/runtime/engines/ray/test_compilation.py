"""Stages are compiled on their machines under Ray, without weights."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from llmpq_jax.errors import StrategyError, WorkerFailedError
from llmpq_jax.runtime.engines.engine import DeviceFailedError
from llmpq_jax.runtime.engines.local import compile_local
from llmpq_jax.runtime.engines.ray import compilation
from llmpq_jax.runtime.engines.ray.actor import StageActor
from llmpq_jax.runtime.engines.ray.compilation import compile_under_ray
from tests.support.ray_machines import on_nodes
from tests.support.tiny_models import write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture
def apart(two_stages):
    return on_nodes(two_stages, "node0", "node1")


@pytest.fixture
def compile_apart(machines):
    def compile_stages(strategy):
        stages: list[int] = []
        found = compile_under_ray(
            strategy, on_stage=lambda: stages.append(1), address=machines.address
        )
        assert len(stages) == len(strategy.stages)
        return found

    return compile_stages


def test_programs_are_those_of_one_machine_and_need_no_weights(
    apart, two_stages, compile_apart, folder, tmp_path
):
    shutil.copy(folder / "config.json", tmp_path)
    without = replace(apart, model=replace(apart.model, path=str(tmp_path)))
    assert compile_apart(without) == compile_local(two_stages, on_stage=lambda: None)


def test_what_a_machine_finds_wrong_names_the_stage(
    apart, two_stages, compile_apart, monkeypatch, tmp_path
):
    first, second = apart.stages
    elsewhere = replace(apart, stages=(first, replace(second, device="node1/tpu:0")))
    with pytest.raises(StrategyError, match=r"^stage 1 on node1/tpu:0: device 'node1"):
        compile_apart(elsewhere)
    with pytest.raises(DeviceFailedError, match=r"needs the nodes attic, which"):
        compile_apart(on_nodes(two_stages, "node0", "attic"))
    other = write_tiny_model(tmp_path / "other", hidden_size=32)
    of_other = replace(apart, model=replace(apart.model, path=str(other)))
    with pytest.raises(
        StrategyError, match=r"^stage \d on node.*: the strategy is for"
    ):
        compile_apart(of_other)
    monkeypatch.setattr(compilation, "__version__", "0.0.1")
    with pytest.raises(
        StrategyError, match=r"^stage \d on .*: llmpq-jax is .* 0\.0\.1"
    ):
        compile_apart(apart)


def test_a_process_that_ends_is_an_error(apart, compile_apart, monkeypatch):
    def end(self, strategy, number, version, set_up):
        import os

        os._exit(1)

    monkeypatch.setattr(StageActor, "compile", end)
    with pytest.raises(
        WorkerFailedError,
        match=r"^the worker of stage \d on node\d/cpu:\d.* has ended while it compiled: see Ray's logs on that machine",
    ):
        compile_apart(apart)
