from __future__ import annotations

import json
import shlex
from pathlib import Path

from llmpq_jax.schema.record_files import read_strategy

FOLDER = Path(__file__).parents[2] / "strategies"
PLAN = FOLDER / "paper-06" / "strategy.toml"


def test_layers_and_sizes_are_those_of_the_plan(run):
    result = run("export", "--to", "vllm", "--strategy", PLAN)
    assert result.exit_code == 0, result.output
    devices, command = result.stdout.splitlines()
    plan = read_strategy(PLAN)
    assert devices.split(": ")[1].split(", ") == [s.device for s in plan.stages]
    variable, *words = shlex.split(command)
    name, partition = variable.split("=")
    assert name == "VLLM_PP_LAYER_PARTITION"
    assert [int(num) for num in partition.split(",")] == [
        stage.num_layers for stage in plan.stages
    ]
    assert words[:2] == ["vllm", "serve"]
    assert words[words.index("--pipeline-parallel-size") + 1] == str(len(plan.stages))
    assert words[words.index("--tensor-parallel-size") + 1] == "1"
    assert words[words.index("--max-model-len") + 1] == "612"
    assert "left out: micro-batches of" in result.stderr
    assert "left out: the order of devices" in result.stderr


def test_unequal_precisions_are_said_to_be_left_out(run, strategy):
    result = run("export", "--to", "vllm", "--strategy", strategy, "--json")
    values = json.loads(result.stdout)
    assert any("one quantisation for a model" in line for line in values["left_out"])
    held = ",".join(str(s.num_layers) for s in read_strategy(strategy).stages)
    assert values["command"].startswith(f"VLLM_PP_LAYER_PARTITION={held} vllm serve ")


def test_one_stage_has_no_partition(run):
    one = FOLDER / "paper-02" / "strategy.toml"
    result = run("export", "--to", "vllm", "--strategy", one)
    assert "VLLM_PP_LAYER_PARTITION" not in result.stdout
    assert "name a checkpoint quantised to that" in result.stderr


def test_another_engine_is_not_known(run):
    result = run("export", "--to", "other", "--strategy", PLAN)
    assert result.exit_code == 2
    assert "'other' is not 'vllm'" in result.stderr
